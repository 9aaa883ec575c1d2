"""The plan's limits as main sees them, and the spill that follows: state, events, and the order to the guests."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from ocd.core import limits as core
from ocd.wire.messages import Exchange, PlanLimit, PlanWindow

#: an order to the guests: groups and their targets, until when (seconds since 1970), for which logins, why
Order = dict[str, Any]


class PlanLimits:
    """``event`` records an event; ``order`` hands a spill to every process of main; ``thresholds`` and ``at`` are read
    at each use (per cents; ``at`` None: nothing spills); ``targets`` says which group of main has a route on AWS."""

    def __init__(
        self,
        event: Callable[..., None],
        order: Callable[[Order], None],
        thresholds: Callable[[], tuple[int, ...]],
        at: Callable[[], int | None],
        targets: Callable[[], Mapping[str, str]],
    ) -> None:
        self._event = event
        self._order = order
        self._thresholds = thresholds
        self._at = at
        self._targets = targets
        self.state = core.Limits()
        self._ordered: Order = {}

    def take(self, exchange: Exchange) -> None:
        """One answered request. A probe's login is made up; the second proxy sees no login."""
        if exchange.limits and exchange.login and not exchange.probe:
            now = time.time()
            self.state, told = core.take(
                self.state, exchange.login, exchange.limits, now, tuple(self._thresholds()), exchange.account
            )
            for one in told:
                self._event(
                    "plan-limit-near",
                    "main",
                    text=f"the plan's {one.window} window is {core.percent(one.used)} used",
                    login=one.login,
                    window=one.window,
                    used=round(one.used, 4),
                    reset=one.reset,
                )
            self.follow()

    def follow(self) -> None:
        """Bring the guests' orders up to date: after news, a change of settings or routes, and now and then."""
        order = self.order()
        if _same(order, self._ordered):
            return
        before, self._ordered = self._ordered, order
        self._order(order)
        if order and not before:
            self._event("spill-started", "main", text=f"{order['why']}: {_groups(order)}")
        elif before and not order:
            self._event("spill-ended", "main", text="requests go to Anthropic again")

    def order(self) -> Order:
        """What a guest is told now; empty: nothing spills."""
        targets = dict(self._targets())
        found = core.spill(self.state, self._at(), time.time()) if targets else core.Spill()
        if not found.logins:
            return {}
        return {"groups": targets, "logins": sorted(found.logins), "until": found.until, "why": found.why}

    @property
    def spilling(self) -> frozenset[str]:
        """The logins whose requests go to AWS now."""
        return frozenset(self._ordered.get("logins", ()))

    def messages(self) -> list[PlanLimit]:
        """Each login with its windows, the one seen last first."""
        now = time.time()
        found = []
        for known in reversed(self.state.logins):
            login = known.now(now)
            if not login.windows:
                continue
            windows = [
                PlanWindow(name=one.name, used=one.used, reset=one.reset or None, status=one.status)
                for one in login.windows
            ]
            found.append(
                PlanLimit(
                    login=login.key,
                    accounts=list(login.accounts),
                    windows=windows,
                    binding=login.binding,
                    seen=login.seen,
                    spilling=login.key in self.spilling,
                )
            )
        return found

    # ------------------------------------------------------------------------------------------- hand-over

    def notes(self) -> list[Any]:
        """What a successor needs."""
        return [
            [
                login.key,
                [[one.name, one.used, one.reset, one.status] for one in login.windows],
                login.binding,
                login.status,
                login.seen,
                [list(one) for one in login.told],
                list(login.accounts),
            ]
            for login in self.state.logins
        ]

    def restore(self, notes: Any) -> None:
        """Take over from a former supervisor; notes of another form are left out."""
        state = core.Limits()
        try:
            for key, windows, binding, status, seen, told, *more in notes or ():
                state = state.put(
                    core.Login(
                        str(key),
                        tuple(core.Window(str(n), float(u), float(r), str(s)) for n, u, r, s in windows),
                        str(binding),
                        str(status),
                        float(seen),
                        tuple((str(w), float(r), int(t)) for w, r, t in told),
                        # a former version has none
                        tuple(str(one) for one in more[0]) if more else (),
                    )
                )
        except (TypeError, ValueError):
            return
        self.state = state


def _same(one: Order, other: Order) -> bool:
    """Whether two orders move the same requests; the reset's seconds and the share in ``why`` change all the time."""
    if not one or not other:
        return one == other
    moved = one["groups"] == other["groups"] and one["logins"] == other["logins"]
    return bool(moved and abs(one["until"] - other["until"]) < core.SAME_SPAN)


def _groups(order: Order) -> str:
    return ", ".join(f"{name} goes to {target}" for name, target in order["groups"].items())
