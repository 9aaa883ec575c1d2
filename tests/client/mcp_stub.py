"""A small MCP server on stdio for the tests: ``mcp_stub.py N`` offers N tools that do nothing."""

import json
import sys


def answer(method: str, params: dict, count: int) -> dict:
    if method == "initialize":
        return {
            "protocolVersion": params.get("protocolVersion", "2025-06-18"),
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "stub", "version": "1"},
        }
    if method == "tools/list":
        # As wordy as real servers' tools are: about a kilobyte each.
        schema = {
            "type": "object",
            "properties": {f"field_{n}": {"type": "string", "description": "x" * 120} for n in range(5)},
        }
        return {
            "tools": [
                {"name": f"stub_{n:03d}", "description": f"Does thing {n}. " * 10, "inputSchema": schema}
                for n in range(count)
            ]
        }
    if method == "tools/call":
        return {"content": [{"type": "text", "text": "done by the stub"}]}
    return {}


def main() -> None:
    count = int(sys.argv[1])
    for line in sys.stdin:
        try:
            message = json.loads(line)
        except ValueError:
            continue
        if message.get("id") is None:
            continue
        result = answer(str(message.get("method")), message.get("params") or {}, count)
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)


if __name__ == "__main__":
    main()
