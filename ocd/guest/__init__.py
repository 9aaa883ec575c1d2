"""What runs under LiteLLM's own interpreter: standard library only, never imported by the daemon's loop."""
