"""ocd: a per-user supervisor for two LiteLLM proxies behind Claude Code."""

__version__ = "0.2.0"

#: The control API's version. The client and the daemon compare it and say what to run when they differ.
API_VERSION = 1
