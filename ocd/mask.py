"""Secrets are masked on the way in: what is never written need not be guarded."""

import re

_PATTERNS = [
    # Anthropic tokens and keys, then any other sk-… key (ours included).
    re.compile(r"sk-ant-[A-Za-z0-9_\-]{4,}"),
    re.compile(r"\bsk-[A-Za-z0-9_\-]{12,}"),
    # AWS access key ids (long-lived, temporary) and Bedrock API keys.
    re.compile(r"\b(?:AKIA|ASIA|ABSK)[A-Za-z0-9+/=]{12,}"),
    # AWS secret keys and session tokens where they are named.
    re.compile(
        r"(?i)(?:aws_?)?(?:secret_?access_?key|session_?token|secret_?key)[\"']?\s*[:=]\s*[\"']?([A-Za-z0-9+/=]{16,})"
    ),
    # the password in an address (DATABASE_URL, REDIS_URL)
    re.compile(r"\b[a-z][a-z0-9+.\-]{1,30}://[^\s/:@\"']{0,200}:([^\s/\"']+)@"),
    re.compile(r"(?i)\b(?:bearer|basic)\s+([A-Za-z0-9._\-+/=~]{8,})"),
]
MASK = "***"


def mask(text: str) -> str:
    """The text with everything that looks like a credential replaced by ``***``; names before it stay."""
    for pattern in _PATTERNS:
        text = pattern.sub(_hide, text)
    return text


def _hide(found: re.Match[str]) -> str:
    whole = found.group(0)
    if found.re.groups:
        start = found.start(1) - found.start(0)
        return whole[:start] + MASK + whole[start + len(found.group(1)) :]
    return MASK
