"""How fast a plan's window is used up, and when it is full. Pure, and quick to load; times are seconds since 1970."""

HOUR = 3600
#: Anthropic's names of windows → seconds
SPANS = {"5h": 5 * HOUR, "7d": 7 * 24 * HOUR}


def full_at(used: float, reset: float | None, name: str, now: float) -> float | None:
    """When a plan's window is used up if it goes on as since its beginning; None: not before its reset, or not known.

    ``used`` is a share (1.0: all of it), ``name`` the window's (5h, 7d).
    """
    pace = per_hour(used, reset, name, now)
    if pace is None or reset is None or used >= 1:
        return now if used >= 1 and reset is not None and reset > now else None
    if pace <= 0:
        return None
    moment = now + (1 - used) / pace * HOUR
    return moment if moment < reset else None


def per_hour(used: float, reset: float | None, name: str, now: float) -> float | None:
    """The share of a plan's window that an hour took since its beginning; None: not known, or too young to say."""
    span = SPANS.get(name)
    if span is None or reset is None or reset <= now:
        return None
    elapsed = now - (reset - span)
    # A few minutes tell nothing of the hours to come.
    return used / elapsed * HOUR if elapsed >= 300 else None
