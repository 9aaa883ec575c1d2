"""openclaude: ask the daemon how to start Claude Code, then become it. Standard library only."""
