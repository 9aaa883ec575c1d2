"""Each check of `occtl doctor` with facts that trigger it and facts that do not; the report around them."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from ocd import __version__
from ocd.core.state import Holder
from ocd.ctl import doctor as verb
from ocd.ctl.__main__ import main
from ocd.doctor import checks, gather, online, report
from ocd.doctor.checks import Entry, Service
from ocd.doctor.report import Row
from ocd.errors import OcdError
from ocd.settings.folders import Folders
from ocd.settings.load import Settings
from ocd.wire.messages import Exchange, Problem, ProxyStatus, Session, Status, Trouble
from ocd.wire.messages import Holder as Told

KEY = "sk-" + "0a" * 32
OTHER = "sk-" + "1b" * 32


def codes(rows: list[Row]) -> list[str]:
    """What is not in order."""
    return [row.code for row in rows if row.level != "ok"]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (checks.litellm("", "1.106.2", "/p"), ["no-litellm"]),
        (checks.litellm("1.82.7", "1.106.2", "/p"), ["litellm-poisoned"]),
        (checks.litellm("01.82.8.0", "1.106.2", "/p"), ["litellm-poisoned"]),
        (checks.litellm("1.99.4", "1.106.2", "/p"), ["litellm-other"]),
        (checks.litellm("1.106.2", "1.106.2", "/p"), []),
        (checks.service(Service("systemd", "it does not answer", False, "", None)), ["no-service-manager"]),
        (checks.service(Service("systemd", "", False, "", None)), ["service-missing"]),
        (checks.service(Service("systemd", "", True, "failed", True)), ["service-failed"]),
        (checks.service(Service("systemd", "", True, "active", False)), ["no-linger"]),
        (checks.service(Service("systemd", "", True, "active", True)), []),
        (checks.command_path("/h/bin", "/usr/bin", True), ["not-on-path"]),
        (checks.command_path("/h/bin", "/usr/bin:/h/bin", True), []),
        (checks.command_path("/h/bin", "/usr/bin", False), []),
        (checks.private([Entry("/k", stat.S_IFREG | 0o640, True)]), ["readable"]),
        (checks.private([Entry("/k", stat.S_IFREG | 0o600, False)]), ["not-ours"]),
        (
            checks.private(
                [Entry("/k", stat.S_IFREG | 0o600, True), Entry("/d", stat.S_IFDIR | 0o700, True)]
            ),
            [],
        ),
        (checks.writable([Entry("/c", stat.S_IFREG | 0o664, True)]), ["writable"]),
        (checks.writable([Entry("/c", stat.S_IFREG | 0o644, True)]), []),
        (checks.disk(50 << 20, "/"), ["disk-full"]),
        (checks.disk(500 << 20, "/"), ["disk-tight"]),
        (checks.disk(5 << 30, "/"), []),
        (checks.clock(1000.0, 90000.0), ["clock-behind"]),
        (checks.clock(90000.0, 90001.0), []),
        (checks.keys(None), ["keys-broken"]),
        (checks.keys({"main": "sk-1234", "bedrock": OTHER}), ["keys-weak"]),
        (checks.keys({"main": KEY, "bedrock": KEY}), ["keys-equal"]),
        (checks.keys({"main": KEY, "bedrock": OTHER}), []),
        (checks.environment(["ANTHROPIC_API_KEY"], "plan"), ["claude-variables"]),
        (checks.environment(["ANTHROPIC_API_KEY"], "api-key"), []),
        (checks.environment(["AWS_PROFILE"], "plan"), ["aws-variables"]),
        (checks.environment(["https_proxy"], "plan"), ["http-proxy"]),
        (checks.environment(["PATH", "HOME"], "plan"), []),
    ],
)
def test_each_check(rows: list[Row], expected: list[str]) -> None:
    assert codes(rows) == expected
    for row in rows:
        assert row.level == "ok" or row.fix


def said(**main_proxy: Any) -> Status:
    proxy = {"state": "ready", "port": 4000, "since": 1.0, **main_proxy}
    return Status(version=__version__, pid=2, keeper_pid=1, since=1.0, proxies={"main": ProxyStatus(**proxy)})


TROUBLE = Trouble(kind="login-expired", slot="opus", what="refused", next="/login", since=1, last=2, count=3)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (said(), []),
        (said(wanted="stopped", state="stopped"), ["stopped"]),
        (said(state="crash-loop", reason="exit 3"), ["crash-loop"]),
        (said(state="blocked", holder=Told(pid=7, command="litellm")), ["blocked"]),
        (said(state="starting"), ["starting"]),
        (said(rejected="line 3"), ["rejected"]),
        (said(troubles=[TROUBLE]), ["login-expired"]),
        (said().model_copy(update={"version": "0.0.1"}), ["versions"]),
        (said().model_copy(update={"problems": [Problem(code="log-degraded", what="no")]}), ["log-degraded"]),
        (said().model_copy(update={"sessions": [Session(pid=1, cwd="/", since=1)]}), []),
    ],
)
def test_what_the_daemon_says(status: Status, expected: list[str]) -> None:
    assert codes(checks.status(status, __version__)) == expected


def test_lost_logs_are_no_reason_not_to_run() -> None:
    lost, wrong = (
        said().model_copy(update={"problems": [Problem(code=code, what="no")]})
        for code in ("log-degraded", "no-litellm")
    )
    assert report.fit(checks.status(lost, __version__)) and not report.fit(checks.status(wrong, __version__))


def test_the_same_is_said_once() -> None:
    """A new user read "aws configure --profile openclaude", and "--profile default" two lines below."""
    found = [Row("error", "AWS", "aws-no-credentials", "a"), Row("error", "daemon", "aws-not-set-up", "b")]
    assert codes(report.worst_first(found)) == ["aws-not-set-up"]
    assert codes(report.worst_first(found[:1])) == ["aws-no-credentials"]


def test_worst_first_and_fit() -> None:
    rows = [Row(level, "x", level, level) for level in ("ok", "note", "warning", "error")]  # type: ignore[arg-type]
    assert [row.level for row in report.worst_first(rows)] == ["error", "warning", "note", "ok"]
    assert not report.fit(rows) and report.fit(rows[:3])


def test_a_check_that_breaks_or_hangs_costs_only_itself() -> None:
    release = threading.Event()

    def breaks() -> list[Row]:
        raise ValueError("sk-ant-secret")

    def refuses() -> list[Row]:
        raise OcdError("No", "because", "do", code="told")

    def hangs() -> list[Row]:
        release.wait(30)
        return []

    def works() -> list[Row]:
        return [Row("ok", "works", "fine", "fine")]

    try:
        rows = report.run({"breaks": breaks, "refuses": refuses, "hangs": hangs, "works": works}, 0.05)
    finally:
        release.set()
    assert [row.code for row in rows] == ["told", "check-failed", "check-slow", "fine"]
    assert "secret" not in repr(rows)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OCD_PREFIX", str(tmp_path / "p"))
    monkeypatch.delenv("CLAUDE_CONFIG_DIR", raising=False)
    found = Folders.find()
    found.config.mkdir(parents=True)
    return found


def test_claude_codes_own_settings(folders: Folders, tmp_path: Path) -> None:
    assert codes(gather.claude(Settings())) == []
    own = tmp_path / ".claude" / "settings.json"
    own.parent.mkdir()
    own.write_text('{"env": {"ANTHROPIC_AUTH_TOKEN": "secret-x"}, "apiKeyHelper": "x"}')
    rows = gather.claude(Settings())
    assert codes(rows) == ["own-settings"]
    assert "ANTHROPIC_AUTH_TOKEN, apiKeyHelper" in rows[0].what and "secret-x" not in repr(rows)
    own.write_text("{")
    assert codes(gather.claude(Settings())) == ["settings-unreadable"]


def test_managed_settings_that_defeat_us(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    managed = {"env": {"CLAUDE_CODE_USE_BEDROCK": "1"}}
    monkeypatch.setattr(gather.files, "read_managed", lambda *_: managed)
    assert codes(report.run({"Claude Code": lambda: gather.claude(Settings())}, 5)) == ["managed-settings"]
    managed["env"] = {"ANTHROPIC_MODEL": "x"}
    assert codes(gather.claude(Settings())) == ["managed-settings"]


def test_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    there = Holder(pid=7, user="me", command="litellm --port 4000", since=None, address="")
    monkeypatch.setattr(gather, "holder", lambda port: there if port == 4000 else None)
    rows = gather.ports(Settings())
    assert codes(rows) == ["port-taken"] and "kill 7" in rows[0].fix and "migrate" in rows[0].fix
    monkeypatch.setattr(gather, "holder", lambda port: None)
    assert gather.ports(Settings()) == []


def test_no_daemon_is_a_warning(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "holder", lambda port: None)
    assert codes(gather.daemon(Settings())) == ["not-running"]


def test_the_keys_file(folders: Folders) -> None:
    assert gather.keys(folders) == []
    folders.state.mkdir(parents=True)
    path = folders.state / "keys.json"
    path.write_text(json.dumps({"main": KEY, "bedrock": OTHER}))
    path.chmod(0o644)
    folders.state.chmod(0o700)
    assert gather.keys(folders) == []
    assert codes(gather.permissions(folders, Settings())) == ["readable"]
    path.chmod(0o600)
    assert codes(gather.permissions(folders, Settings())) == []
    path.write_text("{")
    assert codes(gather.keys(folders)) == ["keys-broken"]
    path.unlink()
    path.mkdir()
    assert codes(gather.keys(folders)) == ["keys-unreadable"]


def test_an_earlier_set_up(folders: Folders, tmp_path: Path) -> None:
    assert gather.earlier(folders, Settings()) == []
    (tmp_path / ".litellm").mkdir()
    (tmp_path / ".litellm" / "config.yaml").write_text("model_list: []\n")
    assert codes(gather.earlier(folders, Settings())) == ["seeds-found"]
    shipped = gather.files_of(gather.PRESETS["mixed"], "us-west-2")["litellm.yaml"]
    (folders.config / "litellm.yaml").write_text(shipped)
    assert codes(gather.earlier(folders, Settings())) == ["seeds-found"]
    (folders.config / "litellm.yaml").write_text("model_list: []\n")
    assert codes(gather.earlier(folders, Settings())) == ["seeds-left"]


def test_the_separate_folder_is_no_earlier_set_up_where_it_is_ours(folders: Folders, tmp_path: Path) -> None:
    (tmp_path / ".openClaude").mkdir()
    assert codes(gather.earlier(folders, Settings())) == ["seeds-found"]
    assert gather.earlier(folders, Settings(isolation="separate")) == []


def test_installation(folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("OPENCLAUDE_CLAUDE", raising=False)
    assert codes(gather.installation(folders, Settings())) == ["no-litellm", "claude-missing"]
    package = folders.data / "litellm/lib/python3.11/site-packages"
    (package / "litellm").mkdir(parents=True)
    (package / "litellm-1.106.12.dist-info").mkdir()
    python = folders.data / "litellm/bin/python"
    python.parent.mkdir()
    for program in (python, tmp_path / "claude"):
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    assert codes(gather.installation(folders, Settings())) == []


def test_findings_of_the_configuration_check_are_rows() -> None:
    finding = {"severity": "error", "code": "c", "file": "f", "line": 3, "key": "k", "what": "w", "fix": "x"}
    (row,) = gather._rows_of([{**finding, "fixable": False}])
    assert (row.level, row.what, row.fix) == ("error", "f:3: k: w", "x")
    assert gather._rows_of([{**finding, "fixable": True}])[0].fix == "`occtl config check --fix`"


def test_disk_and_clock_of_this_machine_are_looked_at(folders: Folders) -> None:
    assert codes(gather.disk(folders)) in ([], ["disk-tight"], ["disk-full"])
    assert codes(gather.clock()) == []


def given(monkeypatch: pytest.MonkeyPatch, *rows: Row) -> None:
    monkeypatch.setattr(gather, "all_checks", lambda folders: {"x": lambda: list(rows)})


def test_the_verb(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    given(monkeypatch, Row("warning", "x", "c", "something", "because", "`do it`"))
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "! warning: something\n    why: because\n    fix: `do it`\n" in shown and "Fit to run" in shown
    given(monkeypatch, Row("error", "x", "c", "something", "because", "`do it`"))
    assert main(["doctor", "--json"]) == 3
    assert json.loads(capsys.readouterr().out) == {
        "fit": False,
        "rows": [
            {
                "level": "error",
                "check": "x",
                "code": "c",
                "what": "something",
                "why": "because",
                "fix": "`do it`",
            }
        ],
    }


def test_online_asks_first(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    given(monkeypatch)
    plan = online.Plan("http://127.0.0.1:9", {}, "plan", [online.Probe("haiku", "q", "aws", True, 0.000004)])
    sent: list[online.Plan] = []
    monkeypatch.setattr(online, "plan", lambda: plan)
    monkeypatch.setattr(online, "send", lambda found: sent.append(found) or [])
    with open(os.devnull) as nobody:
        monkeypatch.setattr(verb.sys, "stdin", nobody)
        assert main(["doctor", "--online"]) == 0
        assert "$0.000004" in capsys.readouterr().err and not sent
        assert main(["doctor", "--online", "--yes"]) == 0
    assert sent == [plan]


def seen(upstream: str) -> Exchange:
    return Exchange(
        time=1, proxy="main", generation=1, path="/v1/messages", status=401, seconds=1, upstream=upstream
    )


def test_what_answers_mean() -> None:
    login = online.Probe("opus", "claude", "https://api.anthropic.com", False, 0.0)
    real = online.Probe("haiku", "qwen", "aws", True, None)
    assert online.verdict(real, 200, "", None).level == "ok"
    assert online.verdict(login, 401, "", seen("api.anthropic.com")).code == "reachable"
    assert online.verdict(login, 401, "", seen("")).code == "unproved"
    assert online.verdict(real, 401, "no", seen("aws")).level == "error"
    assert online.verdict(real, 0, "ConnectError", None).why == "ConnectError"
    assert "aws status" in online.verdict(real, 500, "expired", seen("bedrock-runtime")).fix
    assert "aws" not in online.verdict(login, 500, "broken", seen("api.anthropic.com")).fix
    text = online.costs(online.Plan("", {}, "plan", [login, real]))
    assert "haiku, whose price is not known" in text and "opus: only Claude Code has the login" in text


def test_a_slot_that_nobody_asked_in_yet_is_asked_for_a_made_up_model() -> None:
    probe = online.Probe("opus", "claude-opus-9-9", "https://api.anthropic.com", True, 0.0, made_up=True)
    reached = Exchange(time=1, proxy="main", generation=1, path="/", status=404, seconds=1, upstream="api.x")
    assert online.verdict(probe, 404, "model: claude-opus-9-9", reached).level == "ok"
    assert online.verdict(probe, 404, "model: claude-opus-9-9", None).level == "error", "nobody was asked"
    from dataclasses import replace

    real = replace(probe, made_up=False)
    assert online.verdict(real, 404, "model: claude-opus-9-9", reached).level == "error"


def test_prices_are_those_of_the_installed_litellm() -> None:
    table = {"x.y": {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6}}
    assert online._price("bedrock/converse/x.y", table) == pytest.approx(14e-6)
    assert online._price("bedrock/converse/z", table) is None


def test_what_the_configuration_switched_off_is_no_finding_and_an_earlier_configuration_serves_or_not() -> (
    None
):
    off = said(state="disabled", wanted="stopped", reason="enabled = false")
    assert [row.code for row in checks.status(off, __version__) if row.level != "ok"] == []
    asleep = said(state="idle", wanted="idle")
    assert [row.code for row in checks.status(asleep, __version__) if row.level != "ok"] == []
    failed = said(state="failed", rejected="line 3", reason="line 3")
    (row, _) = [row for row in checks.status(failed, __version__) if row.level != "ok"]
    assert row.code == "failed" and row.why == "line 3"
