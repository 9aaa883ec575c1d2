"""Where ``--settings`` goes for each way to start Claude Code; the wrapper form; Claude Code's usual places."""

import json
import os
import sys
from pathlib import Path

import pytest

from ocd.claude.notices import HOOK, VARIABLE, hooks
from ocd.client import __main__ as client
from ocd.client import places, verbs, wrapper
from ocd.errors import OcdError
from tests.client import verbs as listing


@pytest.mark.parametrize(
    ("line", "where"),
    [
        # 2.1.197 takes each of these for a prompt when --settings stands in front, 2.1.332 the last ones
        ("stop deadbeef", "first"),
        ("kill deadbeef", "first"),
        ("logs deadbeef", "first"),
        ("attach deadbeef", "first"),
        ("rm deadbeef", "first"),
        ("respawn --all", "first"),
        ("daemon status", "first"),
        ("--dangerously-skip-permissions daemon status", "first"),
        # how Claude Code starts its own processes, through a wrapper as well
        ("--bg-pty-host x", "first"),
        ("--daemon-worker bg", "first"),
        ("--preload", "first"),
        # no conversation
        ("update", "plain"),
        ("auth status", "plain"),
        ("setup-token", "plain"),
        ("mcp --help", "plain"),
        # all else, and what does not exist yet
        ("", "before"),
        ("-p hi", "before"),
        ("mcp list", "before"),
        ("plugin eval", "before"),
        ("agents", "before"),
        ("doctor", "before"),
        ("auto-mode critique", "before"),
        ("--bg x", "before"),
        ("--resume", "before"),
        ("some-verb-of-2027 --with option", "before"),
        ("-p -- stop", "before"),
        ("-p -- --desktop", "before"),
    ],
)
def test_where_the_settings_go(line: str, where: str) -> None:
    assert verbs.place([word.encode() for word in line.split()]) == (where, "", None)


@pytest.mark.parametrize(
    "line", ["remote-control", "rc --name x", "remote", "sync", "bridge", "--desktop", "--continue --desktop"]
)
def test_what_cannot_work_is_said_in_our_words(line: str) -> None:
    _where, _notice, refusal = verbs.place([word.encode() for word in line.split()])
    assert refusal is not None
    what, why, todo = refusal
    assert what and why and todo.startswith("Run: claude ")
    # its own help is no session
    assert verbs.place([b"remote-control", b"--help"])[2] is None


def test_what_runs_elsewhere_is_named() -> None:
    for line in ("--cloud", "--cloud=x", "ultrareview 12", "--environment ccpool_1"):
        where, notice, refusal = verbs.place([word.encode() for word in line.split()])
        assert (where, refusal) == ("before", None) and "nothing of it goes through the proxies" in notice
    assert verbs.place([b"tell me about ultrareview"])[1] == ""
    assert "occtl claude configure" in verbs.place([b"daemon", b"scheduled", b"add"])[1]
    assert "self-hosted-runner" in verbs.place([b"self-hosted-runner"])[1]


def test_no_word_is_in_two_rows() -> None:
    rows = [verbs.FIRST, verbs.PLAIN, verbs.REMOTE, verbs.CLOUD]
    named = [word for row in rows for word in row]
    # `remote` is the verb, `--remote` the option
    assert len(named) == len(set(named))


HELP = """Usage: claude [options] [command] [prompt]

Options:
  --allowedTools, --allowed-tools <tools...>
      Comma or space-separated list, as for --not-an-option
  -c, --continue                        Continue, see --print
  --desktop                             Open in the app
  --from-2027 [value]                   New

Commands:
  agents [options]                      Manage background agents, with
                                        continuation lines
  plugin|plugins                        Manage plugins
  stop|halt <id>                        Stop one

"""


def test_the_check_of_a_client_names_what_is_new() -> None:
    names, options = listing.of_help(HELP)
    assert names == {"agents", "plugin", "plugins", "stop", "halt"}
    assert options == {"--allowedTools", "--allowed-tools", "-c", "--continue", "--desktop", "--from-2027"}
    entry = (
        b'x;if(e[0]==="remote-control"||e[0]==="rc2"){C("cli_bridge_path")}else if(process.argv[2]==="--new-host")'
        b'if(t[e]==="daemon"){}if(e[1]==="second"){}'
    )
    words = listing.of_program(entry)
    assert words == {"remote-control", "rc2", "--new-host", "daemon"}
    assert listing.unknown(names, options, words) == ["--from-2027", "--new-host", "halt", "rc2"]
    with pytest.raises(listing.NotClaude):
        listing.of_help("some other program")


def test_the_check_fails_on_an_unknown_client(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = HELP.replace("  --from-2027 [value]                   New\n", "").replace("|halt", "")
    text = "#!/bin/sh\n[ $1 = --version ] && echo 9.9.9 || cat <<'X'\n{}X\n"
    known = program(tmp_path / "known", text.format(said))
    new = program(tmp_path / "new", text.format(HELP))
    assert listing.main([str(known)]) == 0 and "9.9.9: every verb" in capsys.readouterr().out
    assert listing.main([str(known), str(new)]) == 1 and "--from-2027, halt" in capsys.readouterr().out
    assert listing.main([str(program(tmp_path / "other"))]) == 69


# ---- the wrapper form


def program(path: Path, text: str = "#!/bin/sh\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def split(*words: object, launchers: tuple[Path, ...] = ()) -> tuple[list[str], list[str]]:
    ours = {os.fsencode(one) for one in launchers}
    first, rest = wrapper.split([os.fsencode(str(word)) for word in words], ours.__contains__)
    return [os.fsdecode(word) for word in first], [os.fsdecode(word) for word in rest]


def test_the_wrapper_form(tmp_path: Path) -> None:
    claude, node = program(tmp_path / "native" / "claude"), program(tmp_path / "bin" / "node")
    own = program(tmp_path / "bin" / "openclaude")
    cli = tmp_path / "lib" / "cli.js"
    assert split(claude, "-p", "hi") == ([str(claude)], ["-p", "hi"])
    assert split(node, cli, "-p", "x.js") == ([str(node), str(cli)], ["-p", "x.js"])
    assert split(node, "--max-old-space-size=4096", cli) == (
        [str(node), "--max-old-space-size=4096", str(cli)],
        [],
    )
    # nested: a wrapper in front of a wrapped command, twice
    assert split(own, own, claude, "stop", launchers=(own,)) == ([str(claude)], ["stop"])
    assert split(own, "-p", launchers=(own,)) == ([], ["-p"])
    # a slash command is a prompt; so is a folder, and a file that cannot be run
    for prompt in ("/init", "/help me", str(tmp_path), str(tmp_path / "gone")):
        assert split(prompt, "x") == ([], [prompt, "x"])


def test_a_program_that_is_gone_is_no_prompt(tmp_path: Path) -> None:
    for name in ("claude", "claude.exe", "node"):
        with pytest.raises(OcdError) as caught:
            split(tmp_path / name, "-p")
        assert caught.value.exit_code == 69 and "cannot be run" in caught.value.what


# ---- finding it


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "openclaude")])
    monkeypatch.setattr(places, "SYSTEM", ())
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("place", "npmrc", "environ"),
    [
        (".local/bin/claude", "", {}),
        (".claude/local/claude", "", {}),
        ("pre/bin/claude", 'fund=false\nprefix = "~/pre"\n', {}),
        ("pre/bin/claude", "prefix=${HOME}/pre", {}),
        ("pre/bin/claude", "", {"NPM_CONFIG_PREFIX": "{home}/pre"}),
        ("pre/bin/claude", "", {"npm_config_prefix": "{home}/pre"}),
        (".npm-global/bin/claude", "prefix=relative\n\xff", {}),
        (".volta/bin/claude", "", {}),
        (".bun/bin/claude", "", {}),
        (".nvm/versions/node/v22.1.0/bin/claude", "", {}),
        ("elsewhere/versions/node/v9.0.0/bin/claude", "", {"NVM_DIR": "{home}/elsewhere"}),
    ],
)
def test_found_without_the_path(home: Path, place: str, npmrc: str, environ: dict[str, str]) -> None:
    there = program(home / place)
    (home / ".npmrc").write_bytes(npmrc.encode("latin-1"))
    env = {os.fsencode(name): os.fsencode(value.format(home=home)) for name, value in environ.items()}
    assert client.find_claude({b"PATH": b"/nonexistent", b"HOME": os.fsencode(home), **env}) == os.fsencode(
        there
    )


def test_the_path_and_the_newest_node_come_first(home: Path, tmp_path: Path) -> None:
    env = {b"PATH": os.fsencode(tmp_path / "bin"), b"HOME": os.fsencode(home)}
    for version in ("v9.11.2", "v22.1.0", "system"):
        program(home / ".nvm" / "versions" / "node" / version / "bin" / "claude")
    assert b"v22.1.0" in client.find_claude(env)
    on_path = program(tmp_path / "bin" / "claude")
    assert client.find_claude(env) == os.fsencode(on_path)


def test_a_strange_npmrc_is_passed_over(home: Path) -> None:
    home.mkdir()
    os.mkfifo(home / ".npmrc")
    assert not [path for path in places.usual({b"HOME": os.fsencode(home)}) if b"\0" in path]


# ---- what there is to say


def test_the_message_for_the_terminal() -> None:
    text = client.message([b'one "quoted"', "zwei ä".encode()])
    assert json.loads(text) == {"systemMessage": 'openclaude: one "quoted"\nopenclaude: zwei ä'}


def test_the_hook_merges_with_the_users() -> None:
    mine = {"matcher": "clear", "hooks": [{"type": "command", "command": "mine"}]}
    own = {"PreToolUse": [1], "SessionStart": [mine]}
    assert hooks(own) == {"PreToolUse": [1], "SessionStart": [mine, HOOK]}
    assert hooks(hooks(own)) == hooks(own) and own["SessionStart"] == [mine]
    for nothing in (None, [], "x", {}):
        assert hooks(nothing) == {"SessionStart": [HOOK]}
    assert hooks({"SessionStart": "strange"}) == {"SessionStart": "strange"}
    assert f"${VARIABLE}" in HOOK["hooks"][0]["command"] and VARIABLE.encode() == client._NOTICE
