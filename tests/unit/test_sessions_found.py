"""Sessions are told apart by Claude Code's ids, found by its own notes, and found again by a later daemon."""

import asyncio
import json
import os
import stat
import subprocess
import sys
from types import SimpleNamespace

import pytest

from ocd.supervisor.observation.exchanges import Exchanges
from ocd.supervisor.observation.session_finder import SessionFinder
from ocd.supervisor.observation.sessions import Sessions

ID = "6ff2dbe9-6ab0-4da9-b4ca-30ea1f844c02"


@pytest.fixture
def process():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as found:
        yield found
        found.communicate(b"\n")


def asked(exchanges, **more):
    message = {"time": 5.0, "path": "/v1/messages", "model": "claude-opus-9-9", "status": 200, "seconds": 0.1}
    return exchanges.take("main", 1, {**message, "input_tokens": 10, **more})


def exchanges_of(sessions):
    exchanges = Exchanges(lambda *_what, **_more: None, dict)
    exchanges.owner = sessions.owner
    return exchanges


def run(body):
    async def within():
        sessions = Sessions(lambda pid: None)
        try:
            return body(sessions)
        finally:
            for tracked in list(sessions.living.values()):
                sessions._ended(tracked)

    return asyncio.run(within())


def test_what_a_session_asked_before_its_process_was_known_counts():
    def body(sessions):
        exchanges = exchanges_of(sessions)
        asked(exchanges, session_id=ID)
        assert not exchanges.sessions
        sessions.add(os.getpid(), "/work")
        assert sessions.name(os.getpid(), ID) and not sessions.name(os.getpid(), ID)
        exchanges.claim(ID, os.getpid())
        asked(exchanges, session_id=ID, time=6.0)
        (shown,) = sessions.messages(exchanges.sessions)
        assert (shown.requests, shown.tokens, shown.last_request, shown.id) == (2, 20, 6.0, ID)

    run(body)


def test_counting_tokens_is_no_request_of_a_session():
    def body(sessions):
        exchanges = exchanges_of(sessions)
        sessions.add(os.getpid(), "/work")
        sessions.name(os.getpid(), ID)
        asked(exchanges, session_id=ID, path="/v1/messages/count_tokens")
        assert sessions.messages(exchanges.sessions)[0].requests == 0

    run(body)


def test_ids_that_nobody_claims_do_not_grow_for_ever():
    exchanges = exchanges_of(SimpleNamespace(owner=lambda identity: None))
    for number in range(300):
        asked(exchanges, session_id=f"id-{number}")
    assert len(exchanges.unclaimed) == 200


def test_a_later_daemon_finds_the_living_and_only_them(tmp_path, process):
    path = tmp_path / "sessions.json"

    def before(sessions):
        sessions.add(process.pid, "/work", port=4000, kind="background", account="work")
        sessions.name(process.pid, ID)
        sessions.keep(path, [[process.pid, 3, 30, None], [1, 9, 9, None]])
        return path.stat()

    kept = run(before)
    assert stat.S_IMODE(kept.st_mode) == 0o600

    def after(sessions):
        assert sessions.find_again(path) == [[process.pid, 3, 30, None]]
        (shown,) = sessions.messages({})
        assert (shown.pid, shown.cwd, shown.kind, shown.id) == (process.pid, "/work", "background", ID)
        assert sessions.living[process.pid].port == 4000 and shown.account == "work"

    run(after)
    said = json.loads(path.read_text())
    said["sessions"][0].pop()  # as a daemon before accounts wrote it
    path.write_text(json.dumps(said))
    assert run(lambda sessions: (sessions.find_again(path), sessions.living[process.pid].account))[1] == ""
    said["sessions"][0][3] -= 100  # the pid is another process's now
    path.write_text(json.dumps(said))
    assert run(lambda sessions: (sessions.find_again(path), len(sessions.living))) == ([], 0)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"sessions": 5, "figures": 5}', '{"sessions": [[1], "x", null]}']
)
def test_a_broken_file_means_that_none_is_known(tmp_path, text):
    (tmp_path / "sessions.json").write_text(text)
    assert run(lambda sessions: (sessions.find_again(tmp_path / "sessions.json"), len(sessions.living))) == (
        [],
        0,
    )
    assert run(lambda sessions: sessions.find_again(tmp_path / "none")) == []


def finder_of(tmp_path, sessions):
    overlays = SimpleNamespace(
        folder=str(tmp_path / "state" / "overlays"), config_folders=lambda: {tmp_path / ".claude"}
    )
    held = []
    found = SessionFinder(
        tmp_path / "state",
        overlays,
        sessions,
        exchanges_of(sessions),
        lambda: 4000,
        lambda: None,
        lambda: held.append([one.port for one in sessions.living.values()]),
        None,
    )
    found.held = held
    return found


def noted(tmp_path, pid, **more):
    (tmp_path / ".claude" / "sessions").mkdir(parents=True, exist_ok=True)
    note = {"pid": pid, "sessionId": ID, "cwd": "/work", "kind": "interactive", **more}
    (tmp_path / ".claude" / "sessions" / f"{pid}.json").write_text(json.dumps(note))


def test_a_background_session_is_found_by_its_settings_in_the_arguments(tmp_path):
    path = tmp_path / "state" / "overlays" / "overlay-0123456789abcdef.json"
    command = [sys.executable, "-c", "input()", "--settings", str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        noted(tmp_path, process.pid, kind="bg")

        async def body():
            sessions = Sessions(lambda pid: None)
            finder = finder_of(tmp_path, sessions)
            await finder.find()
            (shown,) = sessions.messages({})
            assert (shown.pid, shown.kind, shown.id, shown.cwd) == (process.pid, "background", ID, "/work")
            await finder.find()
            assert finder.held == [[4000]], "its port is held as soon as it is found, once"
            sessions._ended(sessions.living[process.pid])

        asyncio.run(body())
        process.communicate(b"\n")


def test_one_whose_process_was_started_ahead_is_found_by_its_job(tmp_path, process):
    """2.1.332: the process's arguments say nothing of the session that it became."""
    noted(tmp_path, process.pid, kind="bg", jobId="6ff2dbe9")
    job = tmp_path / ".claude" / "jobs" / "6ff2dbe9"
    job.mkdir(parents=True)

    async def look():
        sessions = Sessions(lambda pid: None)
        finder = finder_of(tmp_path, sessions)
        await finder.find()
        first = len(sessions.living)
        settings = tmp_path / "state" / "overlays" / "overlay-0123456789abcdef.json"
        (job / "state.json").write_text(json.dumps({"respawnFlags": ["--settings", str(settings)]}))
        await finder.find()
        second = [one.kind for one in sessions.messages({})]
        for tracked in list(sessions.living.values()):
            sessions._ended(tracked)
        return first, second

    assert asyncio.run(look()) == (0, ["background"])


def test_plain_claude_is_no_session_of_ours(tmp_path, process):
    noted(tmp_path, process.pid)
    noted(tmp_path, 4_000_000)
    (tmp_path / ".claude" / "sessions" / "x.json").write_text("{}")
    (tmp_path / ".claude" / "sessions" / f"{os.getpid()}.json").write_text("[")

    async def look():
        sessions = Sessions(lambda pid: None)
        await finder_of(tmp_path, sessions).find()
        return sessions.living

    assert asyncio.run(look()) == {}
