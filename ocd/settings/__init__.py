"""Our own settings (`ocd.toml`, the environment): schema, reading, editing."""
