"""Claude Code's side: the overlay settings file and what else a launch needs."""
