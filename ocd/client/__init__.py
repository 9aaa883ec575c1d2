"""openclaude: ask the daemon, then become Claude Code. Standard library only."""
