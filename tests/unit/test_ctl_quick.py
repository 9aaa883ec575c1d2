"""The way past click says and does what click does; the tables behind it are those of the code."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.shell_completion import ShellComplete

from ocd.core.limits import percent
from ocd.core.state import State
from ocd.ctl import quick, screen
from ocd.ctl.__main__ import gathered
from ocd.ctl.app import VERBS, cli
from ocd.ctl.look import folder, http, records, status
from ocd.ctl.words import COMMANDS
from ocd.settings.folders import Folders
from ocd.wire import messages

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def own_colors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "_no_color", False)


def command(path: str) -> click.Command:
    found: click.Command = cli
    for word in path.split():
        assert isinstance(found, click.Group)
        below = found.get_command(click.Context(found, **found.context_settings), word)
        assert below is not None
        found = below
    return found


# ---- command lines


@pytest.mark.parametrize(
    "line",
    [
        "status",
        "status main -w --every 2.5",
        "status --every=3",
        "version --json",
        "sessions",
        "config path",
        "config path bedrock --json",
        "logs daemon -n5 --since 2h --until=14:30 -g 'x' -a",
        "logs --lines 7 main --grep=a=b",
        "events main --since yesterday --json",
    ],
)
def test_a_line_means_what_click_makes_of_it(line: str) -> None:
    words = line.replace("'", "").split()
    path = next(verb for verb in quick.VERBS if words[: len(verb.split())] == verb.split())
    rest = words[len(path.split()) :]
    given = quick.parse(COMMANDS[path][1], rest)
    assert given is not None
    root = click.Context(cli, **cli.context_settings)
    of_click = command(path).make_context(path, list(rest), parent=root).params
    assert given == {name: value for name, value in of_click.items() if name in given}
    unset = {name: value for name, value in of_click.items() if name not in given}
    assert all(value in (None, False) or name == "every" for name, value in unset.items())


@pytest.mark.parametrize(
    "line",
    [
        *("status -h", "status --nope", "status main bedrock", "status --every", "status --every x"),
        *("status --json=1", "config path other", "logs -n -1", "logs -n x", "version x", "logs -- main"),
        *("logs -fn 3", "status --watch --watch"),
    ],
)
def test_what_is_not_plain_and_right_is_clicks(line: str) -> None:
    words = line.split()
    path = next(verb for verb in quick.VERBS if words[: len(verb.split())] == verb.split())
    assert quick.parse(COMMANDS[path][1], words[len(path.split()) :]) is None


def test_what_may_stand_anywhere_does() -> None:
    assert gathered(["--json", "status"]) == (["status", "--json"], True, False)
    assert gathered(["status", "--no-color", "main"]) == (["status", "main"], False, True)
    assert gathered(["-h", "config", "path"])[0] == ["config", "path", "--help"]
    assert gathered(["config", "-h", "path"])[0] == ["config", "path", "--help"]
    assert gathered(["logs", "main", "-n", "x", "-h"])[0] == ["logs", "--help"]
    assert gathered(["help", "config", "path"])[0] == ["config", "path", "--help"]
    assert gathered(["-h"])[0] == ["--help"]
    assert gathered(["x", "--", "--json", "-h"]) == (["x", "--", "--json", "-h"], False, False)


# ---- completion


def of_click(args: list[str], incomplete: str) -> list[tuple[str, str]]:
    made = ShellComplete(cli, {}, "occtl", "_OCCTL_COMPLETE")
    return [(item.type, str(item.value)) for item in made.get_completions(list(args), incomplete)]


LINES = [
    *([], ["status"], ["logs"], ["restart"], ["config"], ["config", "path"], ["litellm"], ["litellm", "use"]),
    *(["status", "--json"], ["status", "--every"], ["logs", "-n"], ["logs", "main"], ["aws"], ["init"]),
    *(
        ["init", "--preset"],
        ["usage", "--by"],
        ["usage", "--html"],
        ["model", "set"],
        ["model", "set", "haiku"],
    ),
    *(
        ["completion"],
        ["claude", "env"],
        ["claude", "env", "--shell"],
        ["wait", "--for"],
        ["nothing"],
        ["--no-color"],
    ),
    *(["explain"], ["litellm", "use", "--wheels"], ["start", "main"], ["claude", "remove"]),
]


CASES = list(itertools.product(LINES, ["", "s", "-", "--", "--j", "m", "x/y"]))


@pytest.mark.parametrize(("args", "incomplete"), CASES)
def test_completion_offers_what_click_offers(
    args: list[str], incomplete: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCD_PREFIX", str(tmp_path))
    found = quick.completions(args, incomplete)
    if found is not None:
        assert [(kind, value) for kind, value, _ in found] == of_click(args, incomplete)


def test_completion_leaves_little_to_click() -> None:
    lines = [(args, incomplete) for args in LINES for incomplete in ("", "-")]
    left = [args for args, incomplete in lines if quick.completions(args, incomplete) is None]
    assert len(left) < len(lines) / 3


def asked(shell: str, words: str, current: str) -> str:
    env = {**os.environ, "_OCCTL_COMPLETE": f"{shell}_complete", "COMP_WORDS": words, "COMP_CWORD": current}
    done = subprocess.run(
        [sys.executable, "-m", "ocd.ctl"], env=env, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_shell_gets_its_own_form() -> None:
    assert asked("bash", "occtl config p", "2") == "plain,path\n"
    kind, value, text, *more = asked("zsh", "occtl config p", "2").split("\n")
    assert (kind, value, more) == ("plain", "path", [""]) and text == COMMANDS["config path"][0]
    assert asked("fish", "occtl config p", "p") == f"plain,path\t{COMMANDS['config path'][0]}\n"
    assert asked("bash", "occtl 'quoted", "1") == "\n", "click's answer"


# ---- tables and doubles


def test_every_command_has_a_line_that_fits() -> None:
    paths = set(COMMANDS) - {""}
    assert {path.split()[0] for path in paths} == {verb for verbs in VERBS.values() for verb in verbs}
    for path in sorted(paths):
        summary = COMMANDS[path][0]
        longest = max(len(other.split()[-1]) for other in paths if other.split()[:-1] == path.split()[:-1])
        assert summary and "…" not in summary and 2 + longest + 2 + len(summary) <= 78, (path, summary)


@pytest.mark.parametrize(
    "path", ["", *(path for path in COMMANDS if any(o.startswith(path + " ") for o in COMMANDS))]
)
def test_lists_of_commands_fit_into_80_columns(
    path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ocd.ctl.__main__ import main

    monkeypatch.setenv("COLUMNS", "80")
    assert main([*path.split(), "-h"]) == 0
    said = capsys.readouterr().out
    below = [
        line
        for line in said.splitlines()
        if line.split() and line.split()[0] in {o.split()[-1] for o in COMMANDS if o}
    ]
    assert below and all(len(line) <= 80 and not line.endswith("...") for line in below)


def test_states_and_percents_are_those_of_the_core() -> None:
    for state in State:
        assert (state in status.WELL, state in status.OFF, state in status.HOPELESS) == (
            state.well,
            state.off,
            state.hopeless,
        )
    assert all(status._percent(one / 200) == percent(one / 200) for one in range(300))


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"XDG_CONFIG_HOME": "/x/y"},
        {"OCD_CONFIG_DIR": "rel"},
        {"OCD_PREFIX": "~/p"},
        {"XDG_CONFIG_HOME": ""},
    ],
)
def test_the_configuration_folder_is_the_settings_own(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OCD_PREFIX", "OCD_CONFIG_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert folder.config_dir() == str(Folders.find().config)


def test_config_path_asks_the_settings_where_a_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ocd.ctl.__main__ import main

    monkeypatch.setenv("OCD_CONFIG_DIR", str(tmp_path))
    assert main(["config", "path", "main"]) == 0
    (tmp_path / "ocd.toml").write_text('[proxies.main] # config = "no.yaml"\n')
    assert main(["config", "path", "main"]) == 0
    (tmp_path / "ocd.toml").write_text('[proxies.main]\nconfig = "other.yaml"\n')
    assert main(["config", "path", "main"]) == 0
    names = [Path(line).name for line in capsys.readouterr().out.splitlines()]
    assert names == ["litellm.yaml", "litellm.yaml", "other.yaml"]
    assert main(["config", "path", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"]["main"] == str(tmp_path / "other.yaml")


# ---- messages without pydantic


A_PROXY: dict[str, Any] = {"state": "ready", "port": 4000, "since": 1.5}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("Version", {"version": "1", "pid": 3, "later": 1}),
        (
            "Status",
            {
                **{"version": "1", "pid": 3, "keeper_pid": 2, "since": 1, "later": []},
                "proxies": {
                    "main": A_PROXY | {"holder": {"pid": None, "user": "u"}, "members": []},
                    "bedrock": A_PROXY | {"state": "unheard-of", "memory": 5, "troubles": []},
                },
                "sessions": [{"pid": 1, "cwd": "/", "since": 1.0}],
                "limits": [{"login": "x", "seen": 1.0, "windows": [{"name": "5h", "used": 0.5}]}],
                "budgets": [{"period": "day", "spent": 1.0, "limit": 2.0, "resets": 3.0}],
            },
        ),
        (
            "LogLine",
            {"time": 1.0, "proxy": "main", "generation": 1, "pid": 2, "stream": "stdout", "text": "ü"},
        ),
        ("Event", {"time": 1.0, "kind": "ready", "data": {"a": [1]}}),
        ("ErrorReply", {"error": {"code": "c", "what": "w"}}),
    ],
)
def test_a_record_is_what_pydantic_reads(name: str, data: dict[str, Any]) -> None:
    model = getattr(messages, name).model_validate(data, extra="ignore")
    assert records.plain(records.read(name, data)) == model.model_dump(mode="json")


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        "x",
        {},
        {"version": "1"},
        {"version": 1, "pid": 3},
        {"version": "1", "pid": "3"},
        {"version": "1", "pid": True},
    ],
)
def test_what_is_no_message_is_none(data: Any) -> None:
    with pytest.raises(ValueError):
        records.read("Version", data)


def test_defaults_are_not_shared() -> None:
    first = records.read("Event", {"time": 1.0, "kind": "x"})
    first.data["a"] = 1
    assert records.read("Event", {"time": 1.0, "kind": "x"}).data == {}


# ---- HTTP


class Wire:
    """A connection that gives what it is told to, in pieces of any size."""

    def __init__(self, data: bytes, piece: int) -> None:
        self.data, self.piece = data, piece

    def settimeout(self, seconds: float | None) -> None:
        pass

    def recv(self, size: int) -> bytes:
        made, self.data = self.data[: self.piece], self.data[self.piece :]
        return made


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKED += b"3\r\na\nb\r\n6;x=y\r\nc\n\nd\r\n\r\n1\r\n\n\r\n0\r\n\r\n"


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 1000])
def test_chunks_of_any_size(piece: int) -> None:
    assert http.Reply(Wire(CHUNKED, piece), 1).body() == b"a\nbc\n\nd\r\n\n"  # type: ignore[arg-type]
    lines = http.Reply(Wire(CHUNKED, piece), 1).lines()  # type: ignore[arg-type]
    assert [line.rstrip() for line in lines] == [b"a", b"bc", b"d"]


@pytest.mark.parametrize("piece", [1, 1000])
@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 404 No\r\nContent-Length: 3\r\n\r\nabcd", b"abc"),
        (b"HTTP/1.0 200 OK\r\n\r\nto the end", b"to the end"),
        (b"HTTP/1.1 204 No\r\ncontent-length: 0\r\n\r\n", b""),
    ],
)
def test_answers_of_known_and_unknown_length(answer: bytes, body: bytes, piece: int) -> None:
    assert http.Reply(Wire(answer, piece), 1).body() == body  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "answer",
    [
        *(b"", b"SSH-2.0\r\n\r\n", b"HTTP/1.1\r\n\r\n", b"HTTP/1.1 x OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: y"),
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
        CHUNKED[:-8],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_no_answer_is_broken_off(answer: bytes) -> None:
    with pytest.raises(http.BrokenOff):
        http.Reply(Wire(answer, 1000), 1).body()  # type: ignore[arg-type]


def test_a_query_is_quoted() -> None:
    assert (
        http.target("/x", {"a": 1, "b": "ü &/"}) == "/x?a=1&b=%C3%BC%20%26%2F"
        and http.target("/x", {}) == "/x"
    )
