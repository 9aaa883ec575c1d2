"""Settings (``ocd.toml``) and the user's two LiteLLM files: read, check, fix, presets."""
