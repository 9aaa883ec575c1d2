"""LiteLLM's two files: read, check, fix, presets, routes."""
