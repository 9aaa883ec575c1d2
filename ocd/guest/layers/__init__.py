"""ASGI layers in front of LiteLLM in a guest; loaded by path, nothing of ocd beside ocd.guest is imported."""
