"""Answered requests in the supervisor: what is kept, who is told, which troubles show and when they pass."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from ocd.ctl.look.status import remarks
from ocd.supervisor.observation import exchanges
from ocd.supervisor.observation.exchanges import KEPT, KEPT_SESSIONS, KEPT_TROUBLES, MEANINGS, Exchanges
from ocd.wire.messages import ProxyStatus, Status

SLOTS = {"opus": "claude-opus-9-9", "sonnet": "claude-sonnet-9-9", "haiku": "qwen-3-coder"}


class Recorded:
    def __init__(self) -> None:
        self.events: list[tuple[str, str, str, dict[str, Any]]] = []
        self.slots = dict(SLOTS)
        self.exchanges = Exchanges(self.event, lambda: self.slots)

    def event(
        self, kind: str, proxy: str = "", generation: int | None = None, text: str = "", **data: Any
    ) -> None:
        self.events.append((kind, proxy, text, data))

    def say(self, proxy: str = "main", **fields: Any) -> None:
        message = {
            "ev": "request",
            "time": time.time(),
            "path": "/v1/messages",
            "model": "claude-opus-9-9",
            "status": 200,
            "seconds": 1.0,
            "upstream": "api.anthropic.com",
        }
        assert self.exchanges.take(proxy, 3, {**message, **fields}) is not None

    def kinds(self, proxy: str = "main") -> list[tuple[str, str]]:
        return [(found.kind, found.model) for found in self.exchanges.troubles(proxy)]


@pytest.fixture
def meter() -> Recorded:
    return Recorded()


def test_the_guests_message_gets_proxy_generation_and_slot(meter: Recorded) -> None:
    meter.say(slot="never", proxy_of_theirs="x", session=77)
    meter.say(model="qwen-3-coder[1m]")
    meter.say(model="something-else")
    said = [json.loads(line) for line in meter.exchanges.last(10)]
    assert [one["slot"] for one in said] == ["opus", "haiku", ""]
    assert {(one["proxy"], one["generation"]) for one in said} == {("main", 3)}
    assert said[0]["session"] == 77 and "ev" not in said[0]
    meter.slots["opus"] = "something-else"
    meter.say(model="something-else")
    assert json.loads(meter.exchanges.last(1)[0])["slot"] == "opus"


@pytest.mark.parametrize(
    "message", [{}, {"time": "x"}, {"status": 200}, {"time": 1, "path": [], "status": 1, "seconds": 1}]
)
def test_what_is_no_exchange_is_counted_and_dropped(meter: Recorded, message: dict[str, Any]) -> None:
    assert meter.exchanges.take("main", 1, message) is None
    assert meter.exchanges.misunderstood == 1 and not meter.exchanges.ring


def test_the_ring_and_the_sessions_are_bounded(meter: Recorded) -> None:
    for number in range(KEPT + 20):
        meter.say(session=number, path=f"/{number}")
    assert len(meter.exchanges.ring) == KEPT and len(meter.exchanges.sessions) == KEPT_SESSIONS
    assert json.loads(meter.exchanges.last(KEPT + 100)[0])["path"] == "/20"
    assert meter.exchanges.last(0) == []
    assert min(meter.exchanges.sessions) == KEPT + 20 - KEPT_SESSIONS


def test_listeners_get_messages_and_followers_lines(meter: Recorded) -> None:
    heard: list[str] = []
    lines: list[str] = []
    meter.exchanges.listeners.append(lambda exchange: heard.append(exchange.model))
    meter.exchanges.followers.append(lines.append)
    meter.say()
    assert heard == ["claude-opus-9-9"] and json.loads(lines[0])["model"] == "claude-opus-9-9"


def test_a_session_counts_a_request_once_though_two_proxies_answered_it(meter: Recorded) -> None:
    meter.say(session=7, input_tokens=10, output_tokens=5, model="qwen-3-coder")
    meter.say("bedrock", session=7, input_tokens=10, output_tokens=5, hop=True)
    meter.say(session=7, fallback="opus to opus-bedrock")
    tally = meter.exchanges.sessions[7]
    assert (tally.requests, tally.tokens) == (2, 15)
    assert tally.latest is not None and tally.latest.slot == "opus"
    assert tally.fallback[1] == "opus to opus-bedrock"
    meter.exchanges.forget_session(7)
    assert not meter.exchanges.sessions


def test_a_trouble_is_told_once_counted_and_passes_with_a_success_of_its_model(meter: Recorded) -> None:
    for _ in range(3):
        meter.say(trouble="plan-limit", status=429)
    (found,) = meter.exchanges.troubles("main")
    assert (found.kind, found.slot, found.count) == ("plan-limit", "opus", 3) and found.what and found.next
    assert [kind for kind, *_ in meter.events] == ["upstream-trouble"]
    assert meter.events[0][3]["trouble"] == "plan-limit"
    meter.say(model="other-group", upstream="elsewhere")
    meter.say(status=400, trouble="bad-request")
    meter.say("bedrock")
    assert meter.kinds() == [("plan-limit", "claude-opus-9-9")]
    meter.say()
    assert meter.kinds() == []
    assert [kind for kind, *_ in meter.events] == ["upstream-trouble", "upstream-ok"]


def test_a_model_that_is_gone_stays_until_it_answers_or_the_routes_change(
    meter: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(model: str) -> None:
        meter.say(trouble="model-gone", status=404, model=model)

    gone("claude-opus-9-9")
    gone("claude-sonnet-9-9-20310101")
    pinned, free = sorted(meter.exchanges.troubles("main"), key=lambda one: one.slot)
    assert (pinned.slot, free.slot) == ("opus", "sonnet")
    assert "occtl model unpin opus" in pinned.next and "claude-opus-9-9" in pinned.what
    assert "api.anthropic.com" in pinned.what and "Update Claude Code" in free.next
    real = time.time
    with monkeypatch.context() as later:
        later.setattr(time, "time", lambda: real() + 30 * 86400)
        assert len(meter.exchanges.troubles("main")) == 2, "no time mends it"
    meter.say(model="claude-haiku-9-9")
    assert len(meter.exchanges.troubles("main")) == 2, "another model of the same host"
    meter.say(model="claude-opus-9-9")
    assert meter.kinds() == [("model-gone", "claude-sonnet-9-9-20310101")]
    meter.exchanges.routes_changed("bedrock")
    assert len(meter.kinds()) == 1
    meter.exchanges.routes_changed("main")
    assert meter.kinds() == []


def test_names_that_no_upstream_has_get_no_figures_of_their_own(meter: Recorded) -> None:
    labels = []
    meter.exchanges.listeners.append(lambda one: labels.append(meter.exchanges.label(one)))
    for number in range(9):
        meter.say(trouble="model-gone", status=404, model=f"claude-opus-8-{number}")
    meter.say(trouble="model-gone", status=404, model="claude-opus-9-9")
    meter.say(model="claude-opus-8-9")
    assert labels == ["other"] * 9 + ["claude-opus-9-9", "claude-opus-8-9"]


def test_the_same_trouble_soon_again_is_shown_but_not_announced_again(meter: Recorded) -> None:
    for _ in range(5):
        meter.say(trouble="overloaded", status=529)
        assert meter.kinds() == [("overloaded", "claude-opus-9-9")]
        meter.say()
    assert [kind for kind, *_ in meter.events] == ["upstream-trouble", "upstream-ok"]


def test_a_good_answer_of_the_same_host_ends_a_login_trouble_of_every_model(meter: Recorded) -> None:
    meter.say(trouble="login-expired", status=401)
    meter.say(trouble="access-denied", status=403)
    meter.say(model="claude-sonnet-9-9")
    assert meter.kinds() == [("access-denied", "claude-opus-9-9")]


def test_that_a_made_up_login_is_refused_is_no_trouble(meter: Recorded) -> None:
    meter.say(trouble="login-expired", status=401, probe=True)
    assert meter.kinds() == [] and not meter.events
    meter.say(trouble="unreachable", status=500, probe=True)
    assert meter.kinds() == [("unreachable", "claude-opus-9-9")]
    meter.say(trouble="login-expired", status=401)
    assert ("login-expired", "claude-opus-9-9") in meter.kinds()


def test_every_lasting_word_has_its_meaning_and_others_do_not_last(meter: Recorded) -> None:
    for word in ("login-expired", "plan-limit", "overloaded", "access-denied", "model-gone"):
        meter.say(trouble=word, status=500, model=f"one-{word}")
    for word in ("model-access", "aws-expired", "throttled", "unreachable"):
        meter.say("bedrock", trouble=word, status=500, model=f"one-{word}")
    shown = {found.kind for proxy in ("main", "bedrock") for found in meter.exchanges.troubles(proxy)}
    assert shown == set(MEANINGS)
    for word in ("refused", "bad-request", "upstream-error", "cut", "client-gone"):
        meter.say(trouble=word, status=500, model=word)
    assert len(meter.exchanges.troubles("main")) == 5


def test_troubles_are_bounded_and_forgotten(meter: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(KEPT_TROUBLES + 10):
        meter.say(trouble="unreachable", status=500, model=f"m{number}")
    assert len(meter.exchanges.troubles("main")) == KEPT_TROUBLES
    monkeypatch.setattr(exchanges, "FORGOTTEN", -1.0)
    assert meter.exchanges.troubles("main") == []


def test_figures_survive_a_hand_over_and_foreign_notes_do_not_matter(meter: Recorded) -> None:
    meter.say(session=7, input_tokens=3, fallback="a to b")
    meter.say(trouble="aws-expired", status=403)
    notes = json.loads(json.dumps(meter.exchanges.notes()))
    after = Recorded()
    after.exchanges.restore(notes)
    assert after.exchanges.sessions[7].requests == 1 and after.exchanges.sessions[7].fallback[1] == "a to b"
    assert after.kinds() == [("aws-expired", "claude-opus-9-9")]
    after.say()
    assert [kind for kind, *_ in after.events] == ["upstream-ok"]
    for broken in (
        {"sessions": [[1]]},
        {"troubles": [["main"]]},
        {"sessions": 5},
        {"sessions": [["x", 1, 1, {}]]},
    ):
        Recorded().exchanges.restore(broken)
    assert after.exchanges.news() and not after.exchanges.news()


def test_what_the_second_proxy_answers_the_first_is_shown_once(meter: Recorded) -> None:
    meter.say("bedrock", trouble="throttled", status=429, hop=True, model="qwen-3-coder")
    meter.say(trouble="throttled", status=429, model="qwen-3-coder")
    assert meter.kinds("bedrock") == [] and meter.kinds() == [("throttled", "qwen-3-coder")]


def test_a_fallback_that_answered_is_no_sign_that_the_first_choice_is_well(meter: Recorded) -> None:
    meter.say(trouble="overloaded", status=529)
    meter.say(fallback="opus to opus-bedrock")
    assert meter.kinds() == [("overloaded", "claude-opus-9-9")]


def test_names_in_the_texts_are_put_in_and_not_interpreted(meter: Recorded) -> None:
    meter.say(trouble="unreachable", status=500, model="{host}{0.__class__}", upstream="a.example")
    (found,) = meter.exchanges.troubles("main")
    assert found.what == "a.example cannot be reached"
    assert found.next.endswith("`occtl explain {host}{0.__class__}`")


def test_in_flight_is_what_the_guest_says(meter: Recorded) -> None:
    meter.exchanges.on_guest_status("main", 3, {"in_flight": 2})
    meter.exchanges.on_guest_status("main", 4, {"connections": 1})
    assert meter.exchanges.in_flight == {"main": {3: 2}}
    meter.exchanges.on_guest_end("main", 3)
    meter.exchanges.on_guest_end("bedrock", 9)
    assert meter.exchanges.in_flight == {"main": {}}


def test_status_says_what_happened_how_often_and_the_next_step(meter: Recorded) -> None:
    for _ in range(2):
        meter.say("bedrock", trouble="aws-expired", status=403, model="qwen-3-coder", upstream="bedrock")
    proxy = ProxyStatus(
        state="ready", port=4001, since=time.time(), troubles=meter.exchanges.troubles("bedrock")
    )
    status = Status(version="0", pid=1, keeper_pid=1, since=time.time(), proxies={"bedrock": proxy})
    lines = [text for text, _style in remarks(status)]
    assert lines[0].startswith(
        "bedrock, haiku (qwen-3-coder): the AWS login has expired, or there is none; 2 times in 0s, last 0s"
    )
    assert lines[1] == "  next: Run `occtl aws login`"


def test_a_group_of_a_profile_counts_as_its_slot() -> None:
    made = Exchanges(lambda *a, **k: None, lambda: {"haiku": "q", "opus": ""})
    assert made.slot("q-work") == ""
    made.of_profiles = lambda: {"q-work": "haiku", "q": "opus"}
    assert (made.slot("q-work[1m]"), made.slot("q"), made.slot("claude-opus-9")) == ("haiku", "haiku", "opus")
