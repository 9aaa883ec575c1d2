"""What is seen and told: requests, sessions, limits, usage, metrics, events, logs."""
