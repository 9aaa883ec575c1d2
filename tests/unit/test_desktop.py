"""Desktop notifications: what is run, how often, and that nothing depends on it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ocd.adapters import desktop


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A notify-send that writes its arguments down."""
    path = tmp_path / "notify-send"
    path.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {tmp_path}/said\n')
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return path


def show(*events: tuple[str, str, str], wanted: tuple[str, ...] = ("blocked", "crash-loop")) -> list[str]:
    """Take these events; returns what trouble there was."""
    troubles: list[str] = []

    async def run() -> None:
        one = desktop.Desktop(troubles.append)
        for kind, proxy, text in events:
            one.take(wanted, kind, proxy, text)
        await asyncio.gather(*one.work)

    asyncio.run(run())
    return troubles


def test_a_wanted_event_is_shown_and_another_is_not(program: Path) -> None:
    assert not show(("blocked", "main", "port <4000> & more"), ("ready", "main", "no"))
    said = (program.parent / "said").read_text().splitlines()
    assert said == ["--app-name=ocd", "--", "ocd: main blocked", "port &lt;4000&gt; &amp; more"]


def test_the_same_again_and_a_flood_of_others_are_not(program: Path) -> None:
    show(*[("blocked", "main", "x")] * 5, *[("crash-loop", f"p{n}", "x") for n in range(20)])
    assert (program.parent / "said").read_text().count("--app-name") == desktop.MOST


def test_after_a_pause_it_is_shown_again() -> None:
    now = [0.0]
    one = desktop.Desktop(lambda _why: None, lambda: now[0])
    assert one.due("blocked", "main") and not one.due("blocked", "main")
    assert one.due("blocked", "bedrock")
    now[0] = desktop.PAUSE
    assert one.due("blocked", "main")


@pytest.mark.parametrize("body", ["exit 3", "sleep 60"])
def test_a_program_that_fails_or_hangs_is_told_once(
    body: str, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desktop, "PATIENCE", 0.3)
    program.write_text(f"#!/bin/sh\nexec {body}\n" if body.startswith("sleep") else f"#!/bin/sh\n{body}\n")
    (why,) = show(("blocked", "main", "x"), ("crash-loop", "main", "y"))
    assert "desktop session" in why or "did not end" in why


def test_without_a_program_or_a_loop_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert len(show(("blocked", "main", "x"))) == 1
    desktop.Desktop(lambda _why: None).take(("blocked",), "blocked", "main", "x")


def test_on_a_mac_the_texts_are_arguments_and_no_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "osascript").write_text("#!/bin/sh\n")
    (tmp_path / "osascript").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    argv = desktop.command("title", 'x" & do shell script "rm', "darwin")
    assert argv is not None and argv[-2:] == ["title", 'x" & do shell script "rm']
    assert not any("rm" in word for word in argv[:-1])
