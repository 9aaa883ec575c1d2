"""What keeper, supervisor and guest say to each other. Standard library only."""
