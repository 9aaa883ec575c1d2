"""ASGI layers of the guests. Loaded by path under LiteLLM's interpreter: standard library only, nothing of ocd."""
