"""One effect per module: probing, ports, logs, watching files."""
