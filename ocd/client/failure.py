"""What an answer means that is no exec plan. Rare, so it may import the JSON parser."""

import json

from ocd.errors import EX_PROTOCOL, EX_SOFTWARE, OcdError


def explain(status: int, answer: bytes) -> OcdError:
    """The error for an HTTP answer with a JSON body ``{"error": Problem}`` or with anything else."""
    try:
        problem = json.loads(answer)["error"]
        exit_code = problem.get("exit", EX_SOFTWARE)
        return OcdError(
            str(problem["what"]),
            str(problem.get("why", "")),
            str(problem.get("next", "")),
            exit_code=exit_code if isinstance(exit_code, int) and 0 < exit_code < 256 else EX_SOFTWARE,
            code=str(problem.get("code", "refused")),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return OcdError(
            "The daemon's answer was not understood",
            f"HTTP status {status}",
            "Run: occtl version; then restart the daemon with: occtl stop && occtl start",
            exit_code=EX_PROTOCOL,
            code="protocol",
        )
