"""What an answer means that is no exec plan. Rare, so it may import the JSON parser."""

import json
import os
from collections.abc import Mapping

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


#: what root reads of an ordinary user's ocd: to remove something of theirs, or to start another one, helps nobody
_OWNERS = (
    *("socket-not-ours", "socket-unreachable", "foreign-socket", "socket-permission"),
    *("folder-not-ours", "foreign-runtime-folder", "not-running", "no-launcher"),
)


def of_root(error: OcdError, environ: Mapping[str, str]) -> OcdError:
    """``error``, but where sudo(8) made somebody root: whose ocd this is, in place of advice that is for its owner."""
    user = environ.get("SUDO_USER", "")
    if not user or os.getuid() != 0 or error.code not in _OWNERS:
        return error
    return OcdError(
        error.what,
        f"{error.why + '; ' if error.why else ''}sudo made you root, and each user has an ocd of their own",
        f"Run it as {user}, without sudo",
        exit_code=error.exit_code,
        code=error.code,
    )
