"""Which AWS credential failed before anything was sent? By the type of botocore's error, never by its words.

An SSO session that has ended, a profile that does not exist or no credentials at all show while LiteLLM signs a
request: no upstream is asked, LiteLLM answers 401 or 500, and the meter would know of neither. Both places where
LiteLLM gets there are methods of ``BaseAWSLLM`` (``get_credentials``, and ``get_request_headers``, where a credential
that can be renewed is renewed) in 1.90.7, 1.99.4 and 1.106.2; in a LiteLLM without them nothing is watched, and
everything else works.

Loaded by path inside a guest: uses what LiteLLM brings, and nothing of ocd.
"""

import functools
from collections.abc import Callable
from typing import Any

#: botocore's exceptions (botocore/exceptions.py) and AWS STS's error codes → the meter's word. None that can be used is
#: the same to the user as one that has expired: `occtl aws login` says what is missing.
_NO_LOGIN = frozenset(
    {
        "SSOError",
        "SSOTokenLoadError",
        "UnauthorizedSSOTokenError",
        "TokenRetrievalError",
        "LoginError",
        "LoginRefreshRequired",
        "NoCredentialsError",
        "PartialCredentialsError",
        "CredentialRetrievalError",
        "ProfileNotFound",
        "InvalidConfigError",
        "ConfigParseError",
        "ExpiredToken",
        "ExpiredTokenException",
        "UnauthorizedException",
    }
)
_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "InvalidClientTokenId"})
_METHODS = ("get_credentials", "get_request_headers")


def install(failed: Callable[[str], None]) -> bool:
    """Call ``failed`` with "aws-expired" or "access-denied" when signing a request fails. Never raises.

    Returns whether it could be done.
    """
    try:
        from litellm.llms.bedrock.base_aws_llm import BaseAWSLLM

        for name in _METHODS:
            setattr(BaseAWSLLM, name, _watched(getattr(BaseAWSLLM, name), failed))
    except Exception:
        return False
    return True


def _watched(method: Callable[..., Any], failed: Callable[[str], None]) -> Callable[..., Any]:
    @functools.wraps(method)
    def watched(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except Exception as error:
            if word := word_for(error):
                failed(word)
            raise

    return watched


def word_for(error: BaseException) -> str:
    """The meter's word for an error or for what caused it; empty: it is not about credentials."""
    seen = 0
    one: BaseException | None = error
    while one is not None and seen < 8:
        response = getattr(one, "response", None)
        code = response.get("Error", {}).get("Code", "") if isinstance(response, dict) else ""
        names = {code, *(kind.__name__ for kind in type(one).__mro__)}
        if not names.isdisjoint(_NO_LOGIN):
            return "aws-expired"
        if not names.isdisjoint(_DENIED):
            return "access-denied"
        one, seen = one.__cause__ or one.__context__, seen + 1
    return ""
