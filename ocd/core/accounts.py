"""What there is to say of several logins of a plan, side by side. Pure: times are seconds since 1970.

A limit here is anything with ``accounts``, ``windows`` and ``binding``, a window anything with ``name``, ``used``,
``reset`` and ``status``: a message of the control API, or what a client made of it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    # `occtl status` has no time for them.
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

#: what Anthropic calls a window that takes no more
_REJECTED = "rejected"


def full_until(limit: Any, now: float) -> float:
    """When a login that is at its limit can be used again: the latest reset of its full windows; 0: it is not."""
    resets = [
        float(one.reset)
        for one in limit.windows
        if one.reset and one.reset > now and (one.used >= 1 or one.status == _REJECTED)
    ]
    return max(resets, default=0.0)


def used(limit: Any) -> float | None:
    """The share of the window that counts now; None: no window is known."""
    shares = [one.used for one in limit.windows if one.name == limit.binding]
    return max(shares or [one.used for one in limit.windows], default=None)


def of(limits: Iterable[Any], account: str) -> Any:
    """The limit of an account's login; None: nothing is known of it."""
    return next((one for one in limits if account and account in one.accounts), None)


def percent(share: float) -> str:
    """``42 %``; never 100 % of what is not all used."""
    return f"{int(share * 100) if share < 1 else round(share * 100)} %"


def state(limit: Any, now: float, clock: Callable[[float], str]) -> str:
    """``at its limit until 14:20`` or ``at 30 %``; empty: nothing is known. ``clock`` writes a time."""
    if limit is None:
        return ""
    until = full_until(limit, now)
    if until:
        return f"at its limit until {clock(until)}"
    share = used(limit)
    return "" if share is None else f"at {percent(share)}"


def advice(limits: Sequence[Any], account: str, now: float, clock: Callable[[float], str]) -> str:
    """What somebody has to know who starts a session of ``account``, the other accounts with room last; empty: that
    there is room, or nothing is known."""
    own = of(limits, account)
    if own is None or not full_until(own, now):
        return ""
    others = [
        (used(limit) or 0.0, name)
        for limit in limits
        if limit is not own and not full_until(limit, now)
        for name in limit.accounts
    ]
    said = f"the account {account} is {state(own, now, clock)}"
    if not others:
        return said
    told = ", ".join(f"{name} is at {percent(share)}" for share, name in sorted(others))
    return f"{said}; {told}: openclaude --account {min(others)[1]}"
