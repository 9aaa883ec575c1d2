"""``occtl claude env|sdk|vscode`` and what keeps configured settings in step: what others need, and no key in it."""

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ocd.claude import configure, permanent, shells
from ocd.claude.overlay import Slots
from ocd.ctl.__main__ import main
from ocd.supervisor.observation.configured import PROBLEM, Configured

Capture = pytest.CaptureFixture[str]
KEY = "sk-key-of-the-proxy"


def target(port: int = 4000) -> permanent.Target:
    return permanent.Target(
        f"http://127.0.0.1:{port}", KEY, "plan", Slots("", "", "qwen-3-coder"), ("claude-*", "qwen-3-coder")
    )


AWAY = {"ANTHROPIC_API_KEY": "mine", "CLAUDE_CODE_USE_BEDROCK": "1", "HOME": "/h"}
HEADERS = "x-a: it's \\ $HOME `x`\nX-B: 2"


def shell_of(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"no {name} here")
    return path


@pytest.mark.parametrize("name", ["sh", "bash", "zsh", "fish"])
def test_a_shell_evaluates_it(name: str) -> None:
    program = shell_of(name)
    made = shells.variables(target(), {**AWAY, "ANTHROPIC_CUSTOM_HEADERS": HEADERS})
    assert made.unset == ["ANTHROPIC_API_KEY", "CLAUDE_CODE_USE_BEDROCK"]
    assert KEY not in repr(made)

    def evaluate(text: str, environ: dict[str, str]) -> dict[str, str]:
        done = subprocess.run(
            [program, "-c", f"{text}\nenv -0"],
            env={"PATH": os.defpath, **environ},
            capture_output=True,
            check=True,
        )
        return dict(one.split("=", 1) for one in done.stdout.decode().split("\0") if one)

    after = evaluate(shells.text(made, name, unset=False), AWAY)
    assert after["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:4000"
    assert after["ANTHROPIC_CUSTOM_HEADERS"] == f"{HEADERS}\nx-litellm-api-key: Bearer {KEY}"
    assert not {"ANTHROPIC_API_KEY", "CLAUDE_CODE_USE_BEDROCK"} & set(after)
    # again, and back
    twice = shells.variables(target(), after)
    assert twice.set == made.set and twice.unset == []
    assert "ANTHROPIC_BASE_URL" not in evaluate(shells.text(twice, name, unset=True), after)


def test_no_key_on_a_terminal() -> None:
    made = shells.hidden(shells.variables(target(), {}))
    assert (
        KEY not in shells.text(made, "sh", unset=False)
        and shells.HIDDEN in made.set["ANTHROPIC_CUSTOM_HEADERS"]
    )


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    prefix = Path(tempfile.mkdtemp(prefix="ocdsur", dir="/tmp"))
    for name in list(os.environ):
        if name.startswith(("OCD_", "OPENCLAUDE_", "LITELLM_", "CLAUDE_", "ANTHROPIC_")):
            monkeypatch.delenv(name)
    (prefix / "bin").mkdir()
    (prefix / "bin" / "openclaude").write_text("#!/bin/sh\n")
    (prefix / "bin" / "openclaude").chmod(0o755)
    monkeypatch.setenv("OCD_PREFIX", str(prefix))
    monkeypatch.setenv("HOME", str(prefix))
    monkeypatch.setenv("PATH", f"{prefix}/bin:{os.environ['PATH']}")
    yield prefix
    shutil.rmtree(prefix)


def test_the_verbs(home: Path, capsys: Capture) -> None:
    main(["init"])
    path = str(home / "bin" / "openclaude")
    capsys.readouterr()
    assert main(["claude", "vscode", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"] == {"claudeCode.claudeProcessWrapper": path}
    assert main(["claude", "sdk", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert all(path in said[name] for name in ("typescript", "python", "github"))
    compile(
        "async def f(ClaudeAgentOptions, query):\n "
        + said["python"].replace("\n", "\n ").replace(": …", ": pass"),
        "x",
        "exec",
    )
    assert main(["claude", "env"]) == 0
    out = capsys.readouterr().out
    key = json.loads((home / "state" / "keys.json").read_text())["main"]
    assert f"Bearer {key}'" in out and "export ANTHROPIC_BASE_URL='http://127.0.0.1:4000'\n" in out
    assert main(["claude", "env", "--unset"]) == 0
    out = capsys.readouterr().out
    assert "unset ANTHROPIC_BASE_URL\n" in out and key not in out
    assert key not in json.dumps(said)


def test_without_openclaude_it_says_so(home: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.defpath)
    (home / "bin" / "openclaude").unlink()
    assert main(["claude", "sdk"]) == 69 and "openclaude was not found" in capsys.readouterr().err


# ---- kept in step by the daemon


class House:
    """As much of the supervisor as is looked at."""

    def __init__(self) -> None:
        self.problems: dict[str, Any] = {}
        self.events: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.port, self.open = 4000, True
        self.settings = SimpleNamespace(
            external=SimpleNamespace(enabled=False),
            auth="plan",
            slots=SimpleNamespace(
                model_dump=lambda: {"opus": "", "sonnet": "", "haiku": "qwen-3-coder", "fable": ""}
            ),
        )
        self.log = SimpleNamespace(error=lambda *_a, **_k: None)

    @property
    def state(self) -> Any:
        return SimpleNamespace(ports=SimpleNamespace(ready=self.open))

    def start(self, coroutine: Any) -> None:
        self.tasks.append(asyncio.ensure_future(coroutine))

    def event(self, kind: str, text: str = "") -> None:
        self.events.append(kind)


def test_settings_follow_what_is_served(tmp_path: Path) -> None:
    file, state = tmp_path / "settings.json", tmp_path / "state"
    state.mkdir()
    house: Any = House()
    models = ["claude-*", "qwen-3-coder"]
    kept = Configured(state, lambda: house.settings, house, lambda: KEY, lambda: models, house, house.start)

    async def looked() -> str:
        kept.look()
        await asyncio.gather(*house.tasks)
        house.tasks.clear()
        return str(json.loads(file.read_text())["env"]["ANTHROPIC_BASE_URL"])

    async def story() -> None:
        kept.look()
        assert not house.tasks, "nobody configured anything: nothing is read, nothing is written"
        file.write_text('{"env": {"NO_PROXY": "own.example"}}')
        env = {"NO_PROXY": "of.the.shell"}
        base = configure.read_base(file, state)
        configure.configure(file, state, permanent.overlay(file, base, target(), env, []))
        before = json.loads(file.read_text())
        assert await looked() == "http://127.0.0.1:4000" and house.events == []
        assert json.loads(file.read_text()) == before, "no other environment's NO_PROXY, nothing else either"
        house.port, house.open = 5001, False
        assert await looked() == "http://127.0.0.1:4000", "not served yet"
        house.open = True
        assert await looked() == "http://127.0.0.1:5001" and house.events == ["claude-settings-changed"]
        kept.look()
        assert not house.tasks
        # what cannot be written is a problem until it can
        good = file.read_text()
        file.write_text("{")
        house.port = 5002
        kept.look()
        await asyncio.gather(*house.tasks)
        house.tasks.clear()
        assert str(file) in house.problems[PROBLEM].why and file.read_text() == "{"
        assert house.events[1:] == ["claude-settings-failed"] and KEY not in repr(house.problems)
        file.write_text(good)
        kept._again = 1e-9
        assert await looked() == "http://127.0.0.1:5002" and not house.problems

    asyncio.run(story())
