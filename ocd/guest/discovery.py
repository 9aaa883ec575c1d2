"""Keep LiteLLM from asking our own second proxy for its list of models.

Since 1.106 the router asks every ``openai/`` upstream for ``/v1/models`` at its start and every five minutes, to learn
token limits (litellm/llms/openai_like/model_info.py). The hop to the bedrock proxy is such a route. The answer holds
no limits; the question makes the other process prepare several hundred routes (20 MB) and looks like a client, which
would keep it from going idle. Other upstreams of the user's are asked as ever.

Loaded by path inside a guest: imports LiteLLM, and nothing of ocd. A LiteLLM without this has nothing to skip.
"""

import contextlib
import os
from typing import Any

_ASKING = "get_openai_compatible_model_info"


def install() -> None:
    """Put the exception into the LiteLLM of this process. Never raises."""
    own = os.environ.get("OCD_BEDROCK_URL", "")
    with contextlib.suppress(Exception):
        from litellm import router

        asking = getattr(router, _ASKING)

        async def ask(**what: Any) -> Any:
            if own and _origin(str(what.get("api_base", ""))) == _origin(own):
                return {}
            return await asking(**what)

        setattr(router, _ASKING, ask)


def _origin(url: str) -> str:
    """Scheme, host and port of an address: ``http://127.0.0.1:4001``."""
    return "/".join(url.split("/")[:3]).lower()
