"""Tools that Anthropic's servers run: which a request carries, and what each is for. Pure.

Bedrock has nobody to run them. The bedrock proxy refuses a request with one (``requests``); the main proxy may send it
to Anthropic instead, where the user said so (``[search]``, ``pipe``).
"""

import json
import re
from collections.abc import Mapping
from typing import Any

#: by the beginning of their type (Anthropic's API reference, Messages, ``tools``); the words are the refusal's
SERVER_TOOLS = {
    "web_search": "searching the web",
    "web_fetch": "fetching web pages",
    "code_execution": "running code on Anthropic's servers",
    "tool_search_tool": "searching tools on Anthropic's servers (Claude Code's own ToolSearch works)",
    "mcp_toolset": "reaching MCP servers from Anthropic's servers",
    "advisor": "asking another model of Anthropic's",
}
_HINT = re.compile(rb'"type"\s*:\s*"(?:%b)["_]' % "|".join(SERVER_TOOLS).encode())


def purpose(tool: Mapping[str, Any]) -> str:
    """What a tool of a request is for, if Anthropic's servers run it; else an empty text."""
    kind = tool.get("type")
    if not isinstance(kind, str) or isinstance(tool.get("input_schema"), dict):
        return ""
    return next(
        (words for start, words in SERVER_TOOLS.items() if kind == start or kind.startswith(f"{start}_")), ""
    )


def carried(body: bytes) -> str:
    """The type of the first such tool in a request's body; empty: it has none. Parses only where there may be one."""
    if not _HINT.search(body):
        return ""
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    tools = asked.get("tools") if isinstance(asked, dict) else None
    for tool in tools if isinstance(tools, list) else ():
        if isinstance(tool, dict) and purpose(tool):
            return str(tool["type"])
    return ""
