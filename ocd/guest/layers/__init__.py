"""ASGI layers in front of LiteLLM, independent of its version.

Runs under LiteLLM's interpreter, loaded by path: the standard library and what uvicorn brings, nothing of ocd.
"""
