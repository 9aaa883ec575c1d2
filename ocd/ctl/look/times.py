"""Points in time as people write them: ``10m``, ``yesterday``, ``14:30``, ``2026-11-27 14:30``."""

import re
import time

from ocd.errors import EX_USAGE, OcdError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_AGO = re.compile(r"(\d{1,6})\s*(s|m|h|d|w|sec|min|hour|day|week)s?(?:\s+ago)?")
_DATE = re.compile(r"(?:(\d{4})-(\d{1,2})-(\d{1,2})(?:[T ]|$))?(?:(\d{1,2}):(\d{2})(?::(\d{2}))?)?")


def parse(text: str, option: str, now: float) -> float:
    """Seconds since 1970 of ``text``, in local time. Raises OcdError (exit 64) that names ``option``."""
    said = text.strip()
    ago = _AGO.fullmatch(said.lower())
    if ago:
        return now - int(ago[1]) * _UNITS[ago[2][0]]
    year, month, day, *_ = time.localtime(now)
    words = {"now": now, "today": _local(year, month, day), "yesterday": _local(year, month, day - 1)}
    if said.lower() in words:
        return words[said.lower()]
    if re.fullmatch(r"\d{9,11}(?:\.\d+)?", said):
        return float(said)
    date = _DATE.fullmatch(said)
    if date and said:
        if date[1]:
            year, month, day = int(date[1]), int(date[2]), int(date[3])
        clock = [int(part or 0) for part in date.group(4, 5, 6)]
        if 1 <= month <= 12 and 1 <= day <= 31 and clock[0] < 24 and clock[1] < 60 and clock[2] < 60:
            return _local(year, month, day, *clock)
    raise OcdError(
        f"{option} {text!r} is no time",
        "it is neither a span (10m, 2h, 7d), nor today or yesterday, nor 14:30, nor 2026-01-31 or 2026-01-31 14:30",
        f"Example: {option} 2h",
        exit_code=EX_USAGE,
        code="usage",
    )


def _local(year: int, month: int, day: int, hour: int = 0, minute: int = 0, second: int = 0) -> float:
    # mktime(3) makes a right date of the 0th and the 32nd, and asks the zone about summer time
    return time.mktime((year, month, day, hour, minute, second, 0, 0, -1))
