"""What Anthropic says of a plan's limits, and what follows. Pure: no clock, no I/O; times are seconds since 1970.

Every answer to a plan's login carries ``anthropic-ratelimit-unified-*`` (read in Claude Code 2.1.332, which hands the
same figures to status lines as ``rate_limits``): for each window ``WINDOW-utilization`` (0 to 1, above 1 past the
limit), ``WINDOW-reset`` (seconds since 1970) and ``WINDOW-status``, and ``representative-claim``, the window that
counts now. Which windows there are is Anthropic's business: whatever has a utilization is one. A login is known by a
salted hash, made in the proxy; nothing else of it gets here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

#: logins that are remembered; the one that was seen least recently is forgotten first
KEPT_LOGINS = 16
#: windows of one login
KEPT_WINDOWS = 12
#: Windows with these beginnings are not the plan's own limit: what comes after it, or beside it.
_BESIDE = ("overage", "grace", "slow-budget")
_SUFFIX = "-utilization"
_NAME = re.compile(r"[a-z0-9_-]{1,30}")
#: ``representative-claim`` in the words of the other headers
_CLAIMS = {"five_hour": "5h", "seven_day": "7d"}
#: a window without a reset is believed for so long
_UNDATED = 3600.0
#: resets that differ by less are the same one
SAME_SPAN = 300.0


@dataclass(frozen=True, slots=True)
class Window:
    """One limit. ``used`` is a share (1.0: all of it), ``reset`` 0 when it is not known."""

    name: str
    used: float
    reset: float = 0.0
    status: str = ""


@dataclass(frozen=True, slots=True)
class Login:
    """What is known of one login. ``binding`` names the window that counts, ``told`` what was announced already:
    (window, its reset, threshold)."""

    key: str
    windows: tuple[Window, ...] = ()
    binding: str = ""
    status: str = ""
    seen: float = 0.0
    told: tuple[tuple[str, float, int], ...] = ()
    #: the accounts (``openclaude --account``) whose sessions used it last
    accounts: tuple[str, ...] = ()

    def window(self, name: str) -> Window | None:
        return next((one for one in self.windows if one.name == name), None)

    def now(self, now: float) -> Login:
        """This login without the windows that were reset meanwhile."""
        alive = tuple(
            one for one in self.windows if (one.reset > now if one.reset else now - self.seen < _UNDATED)
        )
        binding = self.binding if any(one.name == self.binding for one in alive) else _fullest(alive)
        return replace(self, windows=alive, binding=binding)


@dataclass(frozen=True, slots=True)
class Told:
    """A threshold was passed: say so once for each window's span."""

    login: str
    window: str
    used: float
    reset: float
    threshold: int


@dataclass(frozen=True, slots=True)
class Spill:
    """Whose requests go to AWS instead: ``until`` is the reset of the window that is nearly full."""

    logins: frozenset[str] = frozenset()
    until: float = 0.0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """All logins, the one seen last at the end."""

    logins: tuple[Login, ...] = field(default=())

    def login(self, key: str) -> Login | None:
        return next((one for one in self.logins if one.key == key), None)

    def put(self, login: Login) -> Limits:
        """With this login as the one seen last. An account has one login: one that an account of this used before
        (its token was renewed, or somebody else logged in there) is forgotten with its last account."""
        others = []
        for one in self.logins:
            left = tuple(name for name in one.accounts if name not in login.accounts)
            if one.key != login.key and (left or not one.accounts):
                others.append(replace(one, accounts=left))
        return Limits((*others, login)[-KEPT_LOGINS:])


def take(
    limits: Limits,
    key: str,
    said: Mapping[str, str],
    now: float,
    thresholds: tuple[int, ...] = (),
    account: str = "",
) -> tuple[Limits, list[Told]]:
    """Anthropic's headers of one answer (names without the common beginning), and what is to be announced.

    ``thresholds`` are whole per cents; ``account`` is the one that the login was used in, empty: not known. Headers
    that cannot be read are left out; an answer without any changes nothing.
    """
    windows = _windows(said)
    if not key or not windows:
        return limits, []
    before = limits.login(key) or Login(key)
    claim = said.get("representative-claim", "")
    binding = _CLAIMS.get(claim, claim.replace("_", "-"))
    if not any(one.name == binding for one in windows):
        binding = _fullest(windows)
    told = tuple(one for one in before.told if one[1] > now)
    news = []
    for window in windows:
        passed = [one for one in thresholds if window.used * 100 >= one]
        known = any(
            name == window.name
            and abs(reset - window.reset) < SAME_SPAN
            and threshold >= max(passed, default=0)
            for name, reset, threshold in told
        )
        if passed and not known and window.reset > now:
            news.append(Told(key, window.name, window.used, window.reset, max(passed)))
            told = (*told, *((window.name, window.reset, one) for one in passed))
    accounts = tuple(dict.fromkeys([*before.accounts, *filter(None, [account])]))[-KEPT_LOGINS:]
    login = Login(key, windows, binding, said.get("status", "")[:30], now, told, accounts)
    return limits.put(login), news


def spill(limits: Limits, at: int | None, now: float) -> Spill:
    """Who spills: logins whose binding window is used to ``at`` per cent or more. None: nobody does."""
    if at is None:
        return Spill()
    full: list[Window] = []
    logins = set()
    for login in limits.logins:
        current = login.now(now)
        window = current.window(current.binding)
        if window is not None and window.reset > now and window.used * 100 >= at:
            full.append(window)
            logins.add(login.key)
    if not full:
        return Spill()
    # The guests ask again when it is over; the first reset is when something changes.
    first = min(full, key=lambda one: one.reset)
    return Spill(
        frozenset(logins), first.reset, f"the plan's {first.name} window is {percent(first.used)} used"
    )


def percent(used: float) -> str:
    """``42 %``; never 100 % of what is not all used."""
    whole = int(used * 100) if used < 1 else round(used * 100)
    return f"{whole} %"


def _windows(said: Mapping[str, str]) -> tuple[Window, ...]:
    found = []
    for name, value in sorted(said.items()):
        window = name.removesuffix(_SUFFIX)
        if window == name or window.startswith(_BESIDE) or not _NAME.fullmatch(window):
            continue
        used = _number(value)
        if used is None or not 0 <= used < 100:
            continue
        reset = _number(said.get(f"{window}-reset", "")) or 0.0
        found.append(
            Window(window, used, reset if reset < 1e11 else 0.0, said.get(f"{window}-status", "")[:30])
        )
    return tuple(found[:KEPT_WINDOWS])


def _fullest(windows: tuple[Window, ...]) -> str:
    return max(windows, key=lambda one: one.used).name if windows else ""


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value == value and abs(value) != float("inf") else None
