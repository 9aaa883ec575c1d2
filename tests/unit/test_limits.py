"""The plan's limits: what Anthropic's headers say, what is announced, when requests spill."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ocd.client.statusline import line
from ocd.core import limits as core
from ocd.ctl.control_room import picture
from ocd.ctl.look.status import limit_lines
from ocd.guest.layers.ways import Spill
from ocd.stack.pipe import spill_targets
from ocd.supervisor.observation.limits import PlanLimits
from ocd.supervisor.observation.statusfile import limit_rows
from ocd.wire.messages import Exchange, PlanLimit, PlanWindow, Status

NOW = 1_795_000_000.0
RESET = NOW + 3600


def said(five: float = 0.42, seven: float = 0.1, claim: str = "five_hour") -> dict[str, str]:
    """The headers of one answer, as Anthropic sends them, without their common beginning."""
    return {
        "status": "allowed",
        "representative-claim": claim,
        "5h-status": "allowed",
        "5h-utilization": str(five),
        "5h-reset": str(int(RESET)),
        "7d-status": "allowed",
        "7d-utilization": str(seven),
        "7d-reset": str(int(NOW + 86400)),
        "overage-utilization": "0.99",
        "overage-status": "rejected",
    }


def taken(
    *answers: dict[str, str], warn: tuple[int, ...] = (), key: str = "a"
) -> tuple[core.Limits, list[core.Told]]:
    state, told = core.Limits(), []
    for answer in answers:
        state, news = core.take(state, key, answer, NOW, warn)
        told += news
    return state, told


def test_both_windows_and_the_one_that_counts() -> None:
    login = taken(said())[0].login("a")
    assert login is not None
    assert [(one.name, one.used, one.reset) for one in login.windows] == [
        ("5h", 0.42, float(int(RESET))),
        ("7d", 0.1, NOW + 86400),
    ]
    assert login.binding == "5h"
    assert taken(said(claim="seven_day"))[0].logins[0].binding == "7d"


def test_a_window_and_a_claim_that_nobody_knew_are_windows_too() -> None:
    answer = {
        "30d_opus-utilization": "0.5",
        "30d_opus-reset": str(RESET),
        "representative-claim": "thirty_day",
    }
    (login,) = taken(answer)[0].logins
    assert login.windows[0].name == "30d_opus" and login.binding == "30d_opus"


def test_a_window_that_was_reset_is_gone_and_the_next_one_counts() -> None:
    (login,) = taken(said(five=0.99))[0].logins
    later = login.now(RESET + 1)
    assert [one.name for one in later.windows] == ["7d"] and later.binding == "7d"
    assert core.spill(taken(said(five=0.99))[0], 95, RESET + 1) == core.Spill()


def test_a_threshold_is_announced_once_for_each_span_of_its_window() -> None:
    told = taken(said(0.7), said(0.76), said(0.8), said(0.91), said(0.92), warn=(75, 90))[1]
    assert [(one.window, one.threshold) for one in told] == [("5h", 75), ("5h", 90)]
    again = {**said(0.8), "5h-reset": str(RESET + 18000)}
    assert [one.threshold for one in taken(said(0.8), again, warn=(75,))[1]] == [75, 75]
    assert [one.threshold for one in taken(said(0.95), said(0.8), warn=(75, 90))[1]] == [90]


def test_it_spills_from_the_share_on_that_was_chosen_and_for_that_login_alone() -> None:
    full, _ = taken(said(0.95))
    half, _ = core.take(full, "b", said(0.5), NOW)
    found = core.spill(half, 95, NOW)
    assert found.logins == {"a"} and found.until == float(int(RESET)) and "95 %" in found.why
    assert core.spill(half, 96, NOW) == core.Spill() == core.spill(half, None, NOW)
    # The binding window decides, not the fullest.
    assert core.spill(taken(said(0.2, 0.99, "five_hour"))[0], 95, NOW) == core.Spill()


@given(
    st.dictionaries(st.text(max_size=20) | st.sampled_from(list(said())), st.text(max_size=12), max_size=12)
)
def test_no_header_breaks_it(answer: dict[str, str]) -> None:
    state, told = core.take(core.Limits(), "k", answer, NOW, (75,))
    for login in state.logins:
        assert 0 < len(login.windows) <= core.KEPT_WINDOWS
        assert all(0 <= one.used < 100 for one in login.windows)
        login.now(NOW)
    assert core.spill(state, 1, NOW).until >= 0
    assert len(told) <= core.KEPT_WINDOWS


def test_only_so_many_logins_are_kept() -> None:
    state = core.Limits()
    for number in range(core.KEPT_LOGINS + 5):
        state, _ = core.take(state, str(number), said(), NOW)
    assert len(state.logins) == core.KEPT_LOGINS and state.login("0") is None


def test_less_than_all_is_never_a_hundred_per_cent() -> None:
    assert [core.percent(one) for one in (0, 0.429, 0.999, 1.0, 1.234)] == [
        "0 %",
        "42 %",
        "99 %",
        "100 %",
        "123 %",
    ]


# ---------------------------------------------------------------------------------------------- supervisor


class Told:
    """What a PlanLimits says and orders."""

    def __init__(self, at: int | None = None, targets: dict[str, str] | None = None) -> None:
        self.events: list[str] = []
        self.orders: list[dict[str, Any]] = []
        self.at = at
        self.targets = {"claude-opus-*": "opus-aws"} if targets is None else targets
        self.limits = PlanLimits(
            lambda kind, *_rest, **_data: self.events.append(kind),
            self.orders.append,
            lambda: (75,),
            lambda: self.at,
            lambda: self.targets,
        )

    def answer(self, five: float, login: str = "a", **more: Any) -> None:
        import time

        headers = {**said(five), "5h-reset": str(time.time() + 3600), "7d-reset": str(time.time() + 9999)}
        self.limits.take(
            Exchange(
                time=NOW,
                proxy="main",
                generation=1,
                path="/v1/messages",
                status=200,
                seconds=1.0,
                login=login,
                limits=headers,
                **more,
            )
        )


def test_spilling_begins_and_ends_with_one_event_and_one_order_each() -> None:
    told = Told(at=95)
    for share in (0.5, 0.96, 0.97):
        told.answer(share)
    assert told.events == ["plan-limit-near", "spill-started"]
    assert [sorted(order["groups"]) for order in told.orders] == [["claude-opus-*"]]
    assert told.orders[0]["logins"] == ["a"]
    assert told.limits.messages()[0].spilling
    told.at = None
    told.limits.follow()
    assert told.events[-1] == "spill-ended" and told.orders[-1] == {}
    assert not told.limits.messages()[0].spilling


def test_without_a_route_on_aws_nothing_spills() -> None:
    told = Told(at=50, targets={})
    told.answer(0.99)
    assert told.orders == [] and "spill-started" not in told.events


def test_a_made_up_login_and_an_answer_without_limits_say_nothing() -> None:
    told = Told(at=1)
    told.answer(0.99, probe=True)
    told.answer(0.99, login="")
    assert told.limits.messages() == [] and told.orders == []


def test_a_successor_goes_on_with_what_was_known_and_says_nothing_twice() -> None:
    first, second = Told(at=95), Told(at=95)
    first.answer(0.96)
    second.limits.restore(first.limits.notes())
    assert second.limits.messages()[0].windows == first.limits.messages()[0].windows
    assert second.limits.order()["groups"] == {"claude-opus-*": "opus-aws"}
    second.limits.restore([["broken"]])
    second.limits.restore("nonsense")
    assert second.limits.messages()


def test_targets_are_the_first_fallback_on_aws_or_what_was_chosen() -> None:
    made = {
        "groups": {
            "claude-opus-*": {"way": "anthropic"},
            "other": {"way": "litellm", "provider": "openai"},
            "opus-aws": {"way": "hop"},
            "haiku": {"way": "hop"},
        },
        "fallbacks": {"claude-opus-*": ["other", "opus-aws"], "haiku": ["opus-aws"]},
    }
    assert spill_targets(made, {}) == {"claude-opus-*": "opus-aws"}
    assert spill_targets(made, {"sonnet": "x", "own": "y"}) == {"claude-sonnet-*": "x", "own": "y"}
    assert spill_targets({}, {}) == {}


def test_the_guest_spills_for_the_logins_that_are_named() -> None:
    spill = Spill()
    spill.take({"groups": {"claude-opus-*": "opus-aws"}, "logins": ["a"], "until": 9e9})
    assert spill.target("claude-opus-9-9", "claude-*", "a") == "opus-aws"
    assert spill.target("claude-opus-9-9", "claude-*", "b") == ""
    assert spill.target("claude-sonnet-9-9", "claude-*", "a") == ""
    spill.take({})
    assert spill.target("claude-opus-9-9", "claude-*", "a") == ""


# ------------------------------------------------------------------------------------------------- display


def status(spilling: bool = False, used: float = 0.42) -> Status:
    windows = [
        PlanWindow(name="7d", used=0.1, reset=NOW + 86400),
        PlanWindow(name="5h", used=used, reset=NOW + 3600),
    ]
    login = PlanLimit(login="abcdef012345", windows=windows, binding="5h", seen=NOW, spilling=spilling)
    return Status(version="1", pid=1, keeper_pid=1, since=NOW, proxies={}, limits=[login])


def test_status_shows_the_binding_window_first() -> None:
    (text, style), *rest = limit_lines(status(), NOW)
    assert text.startswith("plan: 5h 42 % used, resets in 1h") and "7d 10 % used" in text
    assert not rest and not style and "full in" not in text
    assert (
        "5h 90 % used, resets in 1h 00m, full in 26m 40s at this pace"
        in limit_lines(status(used=0.9), NOW)[0][0]
    )
    assert "occtl spill off" in limit_lines(status(spilling=True), NOW)[1][0]


def test_the_status_line_shows_it_and_marks_what_is_near() -> None:
    assert limit_rows(status().limits, 75) == [("limit", "plan 5h 42 %", "")]
    (row,) = limit_rows(status(True, 0.96).limits, 75)
    assert row == ("limit", "plan 5h 96 %, spilling to AWS", "near")
    assert limit_rows([], 75) == []
    shown = line("ocd\t1\t1\n" + "\t".join(map(str, row)) + "\n", 0, NOW)
    assert "plan 5h 96 %, spilling to AWS" in shown and "\x1b[33m" in shown


def test_top_shows_it() -> None:
    assert picture.limits(status(True), NOW) == ["plan 5h 42 %, resets in 1h 00m, spilling to AWS"]
