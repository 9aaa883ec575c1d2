"""What Claude Code needs to run through the two proxies: an overlay settings file and an exec plan."""
