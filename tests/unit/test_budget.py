"""Budgets for AWS: counted exactly, announced once, enforced by main, kept over restarts, shown everywhere."""

from __future__ import annotations

import asyncio
import datetime
import json
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ocd.adapters import usage_file
from ocd.core import budget as core
from ocd.ctl.look.status import budget_lines
from ocd.doctor import checks
from ocd.guest.layers import ways
from ocd.settings.schema import Budget as Section
from ocd.supervisor.observation.budget import Budget
from ocd.supervisor.observation.statusfile import budget_rows
from ocd.wire.messages import BudgetUse, Exchange, Status
from tests.helpers.pipes import Standin, answer, anthropic, request, run, saying, serving

DAY = "2026-11-26"
NOON = datetime.datetime(2026, 11, 26, 12).timestamp()
GOOD = answer(200, b'{"model": "m1", "usage": {"input_tokens": 1, "output_tokens": 2}}')


# ---------------------------------------------------------------------------------------------------- the core


@given(st.lists(st.integers(0, 10**9), max_size=50))
def test_sums_are_exact(costs: list[int]) -> None:
    spent = core.Spent()
    for cost in costs:
        spent = core.add(spent, round(cost * core.UNIT, 8), DAY)
    assert spent.units("day", DAY) == spent.units("month", DAY) == sum(costs)


def test_a_day_and_a_month_begin_again_and_a_clock_that_jumps_finds_its_day() -> None:
    spent = core.add(core.Spent(), 1.0, DAY)
    spent = core.add(spent, 2.0, "2026-12-01")
    assert spent.units("day", "2026-12-01") == spent.units("month", "2026-12-01") == core.to_units(2)
    assert spent.units("day", DAY) == core.to_units(1)
    assert spent.units("day", "2026-11-27") == 0 and spent.units("month", "2026-11-27") == core.to_units(1)


def test_what_is_remembered_is_bounded_and_todays_never_goes() -> None:
    first = datetime.date(2020, 1, 1)
    spent = core.Spent()
    for step in range(500):
        spent = core.add(spent, None, (first + datetime.timedelta(days=step)).isoformat())
    assert len(spent.sums) <= core.KEPT_DAYS + core.KEPT_MONTHS and len(spent.unpriced) <= len(spent.sums)
    spent = core.add(spent, 1.0, "2019-01-01")
    assert spent.units("day", "2019-01-01") == core.to_units(1)


def announced(limits: core.Limits, *costs: float) -> list[tuple[str, bool]]:
    spent, told = core.Spent(), []
    for cost in costs:
        spent, news = core.news(core.add(spent, cost, DAY), limits, DAY)
        told += [(one.period, one.over) for one in news]
    return told


def test_a_budget_is_announced_once_when_it_is_near_and_once_when_it_is_used_up() -> None:
    limits = core.Limits(day=10.0, month=100.0, warn_at=80)
    assert announced(limits, 7.99, 0.0, 0.02, 1.0, 0.98, 0.01, 3.0) == [("day", False), ("day", True)]
    assert announced(limits, 10.0) == [("day", True)]
    assert announced(core.Limits(day=10.0, warn_at=0), 9.9) == []
    assert announced(core.Limits(), 1e5) == []


def test_a_budget_that_was_raised_may_be_used_up_again() -> None:
    spent, news = core.news(core.add(core.Spent(), 5.0, DAY), core.Limits(day=5.0), DAY)
    assert [one.over for one in news] == [True]
    spent, news = core.news(spent, core.Limits(day=20.0), DAY)
    assert news == []
    _, news = core.news(core.add(spent, 15.0, DAY), core.Limits(day=20.0), DAY)
    assert [one.over for one in news] == [True]


def test_what_is_used_up_exactly_is_used_up() -> None:
    spent = core.add(core.Spent(), 4.99999999, DAY)
    limits = core.Limits(day=5.0, action="refuse")
    assert core.exhausted(spent, limits, DAY) is None
    spent = core.add(spent, 0.00000001, DAY)
    found = core.exhausted(spent, limits, DAY)
    assert found is not None and found.words() == "today's AWS budget of $5.00 is used up ($5.00)"
    assert core.exhausted(spent, core.Limits(day=5.0), DAY) is None
    both = core.exhausted(spent, core.Limits(day=5.0, month=5.0, action="plan"), DAY)
    assert both is not None and both.period == "month"


@given(
    st.none()
    | st.integers()
    | st.text()
    | st.lists(st.text())
    | st.dictionaries(st.text(), st.integers() | st.text())
)
def test_notes_of_another_form_are_nothing(known: Any) -> None:
    core.dump(core.load(known))
    core.dump(core.load({"sums": known, "unpriced": {}, "told": []}))


def test_notes_go_through() -> None:
    spent, _ = core.news(core.add(core.add(core.Spent(), 1.5, DAY), None, DAY), core.Limits(day=1.0), DAY)
    assert core.load(json.loads(json.dumps(core.dump(spent)))) == spent
    more = core.add(spent, 1.0, DAY)
    assert core.latest(spent, more) == core.latest(more, spent) == more


# ------------------------------------------------------------------------------------------------ the supervisor


class Told:
    def __init__(self, path: Path, **section: Any) -> None:
        self.section = Section(**section)
        self.events: list[str] = []
        self.orders: list[dict[str, Any]] = []
        self.now = NOON
        self.noted = 0
        #: what was in the file, and the notes, each time before the file was written
        self.before: list[tuple[str, Any]] = []
        self.path = path
        self.budget = Budget(
            path,
            lambda: self.section,
            self.event,
            self.orders.append,
            self.note,
            self.look,
            lambda: self.now,
        )

    def look(self) -> None:
        self.before.append((self.path.read_text() if self.path.exists() else "", self.budget.notes()))

    def event(self, kind: str, *_: Any, **__: Any) -> None:
        self.events.append(kind)

    def note(self) -> None:
        self.noted += 1

    def ask(self, cost: float | None, **fields: Any) -> None:
        basic = {"time": NOON, "proxy": "bedrock", "generation": 1, "path": "/v1/messages", "status": 200}
        tokens = {"seconds": 1.0, "input_tokens": 10, "hop": True}
        self.budget.take(Exchange(**{**basic, **tokens, "cost": cost, **fields}))


def test_every_request_to_aws_counts_once(tmp_path: Path) -> None:
    told = Told(tmp_path / "budget.json", day=10.0)
    told.ask(1.0)
    told.ask(2.0, hop=False)
    told.ask(4.0, proxy="main", hop=False)
    told.ask(8.0, path="/v1/messages/count_tokens")
    told.ask(None)
    told.ask(None, input_tokens=0)
    (use,) = told.budget.messages()
    assert (use.spent, use.limit, use.unpriced, use.near, use.used_up) == (3.0, 10.0, 1, False, False)
    assert told.noted == 3
    assert stat.S_IMODE((tmp_path / "budget.json").stat().st_mode) == 0o600


def test_a_successor_knows_of_a_cost_before_the_file_does(tmp_path: Path) -> None:
    """Else it would be told of the request once more, and count it twice."""
    told = Told(tmp_path / "budget.json", day=10.0)
    told.ask(1.0)
    first = (tmp_path / "budget.json").read_text()
    told.ask(2.0)
    (nothing, one), (before, both) = told.before
    assert nothing == "" and before == first == json.dumps(one)
    assert json.dumps(both) == (tmp_path / "budget.json").read_text() != first


def test_one_order_when_it_is_used_up_and_one_when_it_begins_again(tmp_path: Path) -> None:
    told = Told(tmp_path / "budget.json", day=5.0, action="refuse")
    told.ask(4.0)
    assert (told.events, told.orders) == (["budget-near"], [])
    told.ask(1.0)
    told.ask(1.0)
    assert told.events == ["budget-near", "budget-used-up"] and len(told.orders) == 1
    (order,) = told.orders
    assert order["action"] == "refuse" and order["until"] == datetime.datetime(2026, 11, 27).timestamp()
    assert "$5.00 is used up" in order["why"] and told.budget.order()["action"] == "refuse"
    told.now = NOON + 86400
    told.budget.follow()
    assert told.orders[1:] == [{}] and told.events[-1] == "budget-ended"


def test_settings_count_at_once(tmp_path: Path) -> None:
    told = Told(tmp_path / "budget.json", month=5.0, action="warn")
    told.ask(6.0)
    assert told.events == ["budget-used-up"] and told.orders == []
    told.section = Section(month=5.0, action="plan", plan_model="claude-x")
    told.budget.follow()
    assert told.orders[-1]["model"] == "claude-x"
    assert told.orders[-1]["until"] == datetime.datetime(2026, 12, 1).timestamp()
    told.section = Section(month=50.0, action="plan", plan_model="claude-x")
    told.budget.follow()
    assert told.orders[-1] == {}


def test_sums_survive_the_supervisor_and_the_daemon(tmp_path: Path) -> None:
    path = tmp_path / "budget.json"
    first = Told(path, day=5.0, action="refuse")
    first.ask(3.0)
    notes = json.loads(json.dumps(first.budget.notes()))
    first.ask(1.0)
    # The file has more than the notes; then the notes alone; then the file alone.
    successor = Told(path, day=5.0, action="refuse")
    successor.budget.restore(notes)
    assert successor.budget.messages()[0].spent == 4.0
    path.write_text("{broken")
    other = Told(path, day=5.0, action="refuse")
    other.budget.restore(notes)
    assert other.budget.messages()[0].spent == 3.0
    successor.ask(2.0)
    daemon = Told(path, day=5.0, action="refuse")
    daemon.budget.restore(None)
    daemon.budget.follow()
    assert daemon.budget.messages()[0].spent == 6.0
    assert daemon.events == [] and daemon.orders[0]["action"] == "refuse", "said before, done again"


def test_the_first_daemon_that_counts_begins_with_what_was_used(tmp_path: Path) -> None:
    usage = tmp_path / "usage.db"
    today = datetime.date.today()
    moment = usage_file.hour_of(datetime.datetime.combine(today, datetime.time(0, 5)).timestamp())
    row = [moment, "m", "haiku", "bedrock", "", "", "", "", 1, 0, 10, 5, 0, 0, 2.5, 1]
    other = [moment, "m", "opus", "anthropic", "", "", "", "", 1, 0, 10, 5, 0, 0, 100.0, 0]
    usage_file.add(str(usage), "1", [row, other])
    told = Told(tmp_path / "budget.json", month=5.0)
    told.now = moment + 60

    async def begin() -> None:
        await told.budget.begin(usage)
        await told.budget.begin(usage)
        told.budget.write()

    asyncio.run(begin())
    (use,) = told.budget.messages()
    assert (use.spent, use.unpriced) == (2.5, 1)


def test_plan_needs_its_model() -> None:
    with pytest.raises(ValidationError, match="plan_model"):
        Section(action="plan")
    for wrong in ({"day": -1.0}, {"month": float("nan")}, {"warn_at": 101}, {"action": "stop"}):
        with pytest.raises(ValidationError):
            Section(**wrong)


# ----------------------------------------------------------------------------------------------------- the guest


def table(up: str, fallbacks: dict[str, list[str]] | None = None) -> dict[str, Any]:
    return {
        "groups": {
            "claude-*": anthropic(up, model="claude-*"),
            "qwen": {"way": "hop", "model": "qwen", "provider": "hop"},
            "qwen-litellm": {"way": "litellm", "provider": "bedrock"},
        },
        "fallbacks": fallbacks or {},
    }


Seen = tuple[Any, list[Any], list[Any], list[dict[str, Any]]]


def asking(raw: bytes, *, up: Any = None, hop: Any = None, fallbacks: Any = None, **more: Any) -> Seen:
    async def story() -> Seen:
        plan, aws = Standin(up or saying(GOOD)), Standin(hop or saying(GOOD))
        async with plan.serving(), aws.serving():
            environ = {"OCD_BEDROCK_URL": f"{aws.url}/v1"}
            async with serving(table(plan.url, fallbacks), environ=environ, **more) as setup:
                got = await setup.ask(raw)
                await setup.heard()
                return got, plan.asked, aws.asked, setup.told

    found: Seen = run(story)
    return found


REFUSE = {"action": "refuse", "until": 0, "why": "today's AWS budget of $5.00 is used up ($5.01)"}
PLAN = {**REFUSE, "action": "plan", "model": "claude-small-9"}


def test_what_is_for_aws_is_refused_with_words_and_not_retried() -> None:
    for model in ("qwen", "qwen-litellm"):
        got, plan, aws, told = asking(request(model), budget=REFUSE)
        assert (got.status, plan, aws) == (424, [], [])
        error = json.loads(got.body)
        assert error["type"] == "error" and "$5.00 is used up" in error["error"]["message"]
        assert got.header(b"x-should-retry") == b"false"
        assert (told[-1]["trouble"], told[-1]["cost"]) == ("budget", None)


def test_claudes_models_go_on_and_do_not_fall_back_to_aws() -> None:
    got, plan, aws, _ = asking(request("claude-opus-9-9"), budget=REFUSE)
    assert (got.status, len(plan), aws) == (200, 1, [])
    overloaded = saying(answer(529, b"{}"))
    more = {"fallbacks": {"claude-opus-9-9": ["qwen"]}, "up": overloaded}
    got, plan, aws, _ = asking(request("claude-opus-9-9"), budget=REFUSE, **more)
    assert (got.status, len(plan), aws) == (529, 1, [])
    got, _, aws, _ = asking(request("claude-opus-9-9"), **more)
    assert (got.status, len(aws)) == (200, 1), "without a budget it would have"
    spill = {"groups": {"claude-opus-*": "qwen"}}
    got, plan, aws, _ = asking(request("claude-opus-9-9"), budget=REFUSE, spill=spill)
    assert (got.status, len(plan), aws) == (200, 1, [])


def test_it_goes_to_the_plan_with_the_sessions_own_login() -> None:
    got, plan, aws, told = asking(request("qwen"), budget=PLAN)
    assert (got.status, len(plan), aws) == (200, 1, [])
    assert json.loads(plan[0].body)["model"] == "claude-small-9" and b"sk-ant-oat01" in plan[0].head
    assert "qwen to claude-small-9 (budget: today's" in told[-1]["fallback"]
    for order in ({**PLAN, "model": "qwen"}, {**PLAN, "model": "nobody"}, {**PLAN, "model": ""}):
        assert asking(request("qwen"), budget=order)[0].status == 424
    assert asking(request("qwen", login=""), budget=PLAN)[0].status == 424


def test_counting_tokens_costs_nothing_and_no_order_changes_nothing() -> None:
    got, _, aws, _ = asking(request("qwen", path=b"/v1/messages/count_tokens"), budget=REFUSE)
    assert (got.status, len(aws)) == (200, 1)
    for order in ({}, {"action": ""}, {"action": "warn"}, {**REFUSE, "until": 1.0}, {"action": ["refuse"]}):
        assert asking(request("qwen"), budget=order)[0].status == 200


def test_openais_routes_are_refused_too() -> None:
    body = json.dumps({"model": "qwen-litellm", "messages": []}).encode()
    got, *_ = asking(request(path=b"/v1/chat/completions", body=body), budget=REFUSE)
    assert got.status == 424
    assert asking(request(path=b"/v1/chat/completions", body=body))[0].status == 200


def test_an_order_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = ways.Budget()
    budget.take({"action": "refuse", "until": 1000.0})
    monkeypatch.setattr("time.time", lambda: 999.0)
    assert budget.used_up
    monkeypatch.setattr("time.time", lambda: 1000.0)
    assert not budget.used_up and not budget.action


# --------------------------------------------------------------------------------------------------- where it shows


def use(**fields: Any) -> BudgetUse:
    basic: dict[str, Any] = {"period": "day", "spent": 4.1, "limit": 5.0, "near": True, "resets": NOON + 3600}
    return BudgetUse(**{**basic, **fields})


def shown(*uses: BudgetUse) -> Status:
    return Status(version="1", pid=1, keeper_pid=2, since=NOON, proxies={}, budgets=list(uses))


def test_status_says_what_is_spent_and_what_is_done() -> None:
    lines = budget_lines(shown(use(unpriced=3)), NOON)
    assert lines == [
        (
            "AWS today: $4.10 of $5.00 (estimated), begins again in 1h 00m; 3 requests without a known price "
            "are not in it.",
            "bold yellow",
        )
    ]

    def words(action: str) -> str:
        return budget_lines(shown(use(used_up=True, action=action)), NOON)[1][0]

    assert "refused" in words("refuse") and "plan" in words("plan") and "nothing is stopped" in words("warn")
    assert budget_lines(shown(use(near=False, period="month")), NOON)[0][1] == ""


def test_doctor_and_status_line_show_it_once_it_is_near() -> None:
    assert checks.budgets(shown(use(near=False))) == [] == budget_rows([use(near=False)])
    (row,) = checks.budgets(shown(use(used_up=True, action="refuse")))
    assert (row.level, row.code) == ("warning", "budget") and "refused" in row.why
    month = use(period="month", spent=9.0, limit=10.0)
    assert budget_rows([use(), month]) == [("limit", "AWS this month $9.00 of $10.00", "near")]
    over = use(used_up=True, action="plan")
    assert budget_rows([over])[0][1] == "AWS today $4.10 of $5.00, to the plan"
