"""occtl: the hand on the daemon. One module per group of verbs."""
