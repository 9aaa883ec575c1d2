"""Profiles: what a project's ``.ocd.toml`` may do (nothing, until it is trusted), and what is made of the slots."""

from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocd.claude import lasting, launch, plan, profiles, project, trust
from ocd.claude.overlay import Slots
from ocd.ctl.__main__ import main
from ocd.errors import OcdError
from ocd.settings.findings import ConfigError
from ocd.settings.folders import Folders
from ocd.settings.load import load, parse
from ocd.stack import twin
from ocd.stack.picker import patterns, rows
from ocd.stack.swap import read_stack
from ocd.wire.messages import LaunchReply, LaunchRequest

KNOWN = ["claude-*", "qwen-3-coder", "qwen-3-coder-work", "other"]
ROWS: list[dict[str, Any]] = [
    {"model": "qwen-3-coder", "label": "Q", "description": "", "asks": "bedrock/q", "signs": ""},
    {"model": "qwen-3-coder-work", "label": "Q", "description": "", "asks": "bedrock/q", "signs": "work"},
    {"model": "other", "label": "O", "description": "", "asks": "anthropic/o", "signs": None},
    {"model": "pair", "label": "P", "description": "", "asks": "bedrock/p", "signs": "a key pair"},
]
SLOTS = Slots("", "", "qwen-3-coder")
GOOD = 'haiku = "other"\n'


@pytest.fixture
def box(tmp_path: Path) -> Path:
    """A home with a project (a git repository with a folder in it) and a state folder."""
    tmp_path.chmod(0o755)
    (tmp_path / "project" / ".git").mkdir(parents=True)
    (tmp_path / "project" / "sub").mkdir()
    (tmp_path / "state").mkdir(mode=0o700)
    return tmp_path


def wrote(box: Path, text: str | bytes = GOOD, trusted: bool = True) -> Path:
    path = box / "project" / project.FILE
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(0o644)
    if trusted:
        trust.add(box / "state", project.read(os.path.realpath(path)))
    return path


def launched(box: Path, cwd: str = "project/sub", **more: Any) -> tuple[dict[str, str], list[str], str]:
    """The session's variables, its notices, its overlay's path."""
    served = launch.Served(
        SLOTS,
        "http://127.0.0.1:4000",
        "sk-k",
        known_models=KNOWN,
        rows=ROWS,
        profiles={"a": {"haiku": "other"}, "b": {"aws_profile": "work"}},
    )
    reply = launch.prepare(
        LaunchRequest(pid=1, cwd=str(box / cwd), env={"HOME": str(box)}, **more),
        folder=str(box / "overlays"),
        served=served,
        managed_root=str(box),
        state=box / "state",
    )
    return json.loads(Path(reply.args[1]).read_text())["env"], reply.notices, reply.args[1]


HAIKU = "ANTHROPIC_DEFAULT_HAIKU_MODEL"


# ---- trust


def test_a_trusted_file_is_used_below_its_folder(box: Path) -> None:
    wrote(box)
    env, notices, _ = launched(box)
    assert env[HAIKU] == "other" and notices == []
    assert launched(box, "project")[0][HAIKU] == "other"
    assert launched(box, ".")[0][HAIKU] == "qwen-3-coder"


def test_a_new_file_is_not_used_and_the_person_is_told_in_three_lines(box: Path) -> None:
    path = wrote(box, trusted=False)
    env, (notice,), _ = launched(box)
    assert env[HAIKU] == "qwen-3-coder"
    what, why, step = notice.split("\n")
    assert what == f"{os.path.realpath(path)} is not used" and why.startswith("  why:  ")
    assert step.startswith("  next: ") and "occtl profile trust" in step


def test_changed_content_is_not_used_until_it_is_trusted_again(box: Path) -> None:
    wrote(box)
    path = wrote(box, 'haiku = "qwen-3-coder-work"\n', trusted=False)
    env, (notice,), _ = launched(box)
    assert env[HAIKU] == "qwen-3-coder" and "changed since" in notice
    trust.add(box / "state", project.read(os.path.realpath(path)))
    assert launched(box)[0][HAIKU] == "qwen-3-coder-work"
    # as it was at first: that was trusted once, but another content was since
    wrote(box, trusted=False)
    assert launched(box)[0][HAIKU] == "qwen-3-coder"


def test_trust_is_of_the_path_too(box: Path) -> None:
    wrote(box)
    (box / "copy" / ".git").mkdir(parents=True)
    (box / "copy" / project.FILE).write_text(GOOD)
    env, (notice,), _ = launched(box, "copy")
    assert env[HAIKU] == "qwen-3-coder" and "nobody" in notice
    # the same folder by another name is the same
    (box / "by-another-name").symlink_to(box / "project")
    assert launched(box, "by-another-name/sub")[0][HAIKU] == "other"


def test_a_link_is_not_used_even_to_a_trusted_content(box: Path) -> None:
    path = wrote(box)
    path.rename(box / "elsewhere.toml")
    path.symlink_to(box / "elsewhere.toml")
    env, (notice,), _ = launched(box)
    assert env[HAIKU] == "qwen-3-coder" and "symbolic link" in notice


def test_anothers_file_is_not_used(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrote(box)
    uid = os.getuid()
    monkeypatch.setattr("ocd.claude.project.os.getuid", lambda: uid + 1)
    with pytest.raises(OcdError) as caught:
        project.read(os.path.realpath(box / "project" / project.FILE))
    assert caught.value.exit_code == 77 and f"user {uid}" in caught.value.why


@pytest.mark.parametrize("place", ["project/.ocd.toml", "project", "."])
def test_what_every_user_may_write_to_is_not_used(box: Path, place: str) -> None:
    wrote(box)
    opened = box / place
    mode = stat.S_IMODE(opened.stat().st_mode)
    opened.chmod(mode | 0o002)
    env, (notice,), _ = launched(box)
    assert env[HAIKU] == "qwen-3-coder" and "every user of this machine" in notice and "chmod o-w" in notice
    opened.chmod(mode)
    assert launched(box)[0][HAIKU] == "other"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'haiku = "oth', "not TOML"),
        (b"\xff\xfe = 1", "UTF-8"),
        (b'haiku = "' + b"x" * 200 + b'"', "not a name"),
        (b"haiku = 3", "not a name"),
        (b'haiku = ["other"]', "not a name"),
        (b'aws_profile = ""', "not a name"),
        (b'aws_profile = "a; rm"', "not a name"),
        (b'base_url = "https://evil.example"', "not one of"),
        (b'[slots]\nhaiku = "other"', "not one of"),
        (b'[external]\nbase_url = "https://evil.example"', "not one of"),
        (b'[env]\nANTHROPIC_BASE_URL = "https://evil.example"', "not one of"),
        (b'account = "work"', "not one of"),
        (b'"\\u001b[2J" = 1', "not one of"),
    ],
)
def test_what_cannot_be_used_is_refused_when_it_is_trusted(
    box: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: bytes, why: str
) -> None:
    monkeypatch.setenv("OCD_PREFIX", str(box))
    path = wrote(box, content, trusted=False)
    assert main(["profile", "trust", str(path)]) == 65
    err = capsys.readouterr().err
    assert why in err and "\x1b[2J" not in err
    assert trust.known(box / "state") == {}
    env, notices, _ = launched(box)
    assert env[HAIKU] == "qwen-3-coder" and len(notices) == 1


def test_a_huge_file_a_pipe_and_a_folder_are_not_read(box: Path) -> None:
    path = wrote(box, trusted=False)
    with path.open("wb") as file:
        file.truncate(1 << 34)
    assert "larger than" in launched(box)[1][0]
    path.unlink()
    os.mkfifo(path)
    assert "not a plain file" in launched(box)[1][0]
    path.unlink()
    path.mkdir()
    assert "not a plain file" in launched(box)[1][0]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"/x": 3}', "\0", '{"a": {"b": 1}}', "[" * 100_000])
def test_a_broken_list_of_trust_means_none(box: Path, text: str) -> None:
    wrote(box)
    (box / "state" / trust.NAME).write_text(text)
    assert launched(box)[0][HAIKU] == "qwen-3-coder"
    path = os.path.realpath(box / "project" / project.FILE)
    assert trust.add(box / "state", project.read(path)) and launched(box)[0][HAIKU] == "other"


def test_two_at_once_lose_nothing(box: Path) -> None:
    files = []
    for number in range(12):
        folder = box / f"project-{number}"
        folder.mkdir()
        (folder / project.FILE).write_text(GOOD)
        files.append(project.read(os.path.realpath(folder / project.FILE)))
    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(lambda file: trust.add(box / "state", file), files))
        assert set(trust.known(box / "state")) == {file.path for file in files}
        assert all(pool.map(lambda file: trust.remove(box / "state", file.path), files))
    assert trust.known(box / "state") == {}


def test_the_list_of_trust_is_the_users_alone(box: Path) -> None:
    wrote(box)
    kept = box / "state" / trust.NAME
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    kept.chmod(0o666)
    assert trust.known(box / "state") == {}, "whoever may write to it decides nothing"


def test_the_nearest_file_counts_up_to_the_root_of_the_repository(box: Path) -> None:
    outer = box / project.FILE
    outer.write_text(GOOD)
    assert project.find(str(box / "project" / "sub")) == ""
    wrote(box)
    inner = box / "project" / "sub" / project.FILE
    assert project.find(str(inner.parent)) == os.path.realpath(box / "project" / project.FILE)
    inner.write_text(GOOD)
    assert project.find(str(inner.parent)) == os.path.realpath(inner)
    # the nearest is not trusted: not the next one instead
    assert launched(box)[0][HAIKU] == "qwen-3-coder"
    # without a repository only the folder itself
    (box / "plain" / "sub").mkdir(parents=True)
    (box / "plain" / project.FILE).write_text(GOOD)
    assert project.find(str(box / "plain" / "sub")) == "" and project.find(str(box / "plain")) != ""
    assert project.find(str(box / "is" / "not" / "there")) == ""


@given(st.binary(max_size=60))
def test_no_content_makes_more_than_names_of_known_keys(content: bytes) -> None:
    try:
        found = project.choices(project.File("/x/.ocd.toml", content))
    except OcdError as error:
        assert error.exit_code == 65 and error.what.isprintable() and error.why.isprintable()
        return
    assert set(found) <= set(project.KEYS) and all(isinstance(value, str) for value in found.values())


def test_a_notice_keeps_its_three_lines_and_no_other_line_ends() -> None:
    told = "x is not used\n  why:  it is\x1b[2J\n  next: y"
    answer = plan.encode_plan(LaunchReply(ready=True, notices=[told, "a\nopenclaude: forged"]))
    first, second, _ = answer.split(b"\0")
    assert first == b"notice x is not used\n  why:  it is [2J\n  next: y"
    assert second == b"notice a openclaude: forged"


# ---- the verbs


def test_show_trust_list_untrust(
    box: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OCD_PREFIX", str(box))
    (box / "config").mkdir()
    (box / "config" / "ocd.toml").write_text('[profiles.a]\nopus = "other"\n')
    monkeypatch.chdir(box / "project" / "sub")
    assert main(["profile", "show"]) == 66
    path = wrote(box, 'profile = "a"\nhaiku = ""\n', trusted=False)
    capsys.readouterr()
    assert main(["profile", "show", "--json"]) == 3
    said = json.loads(capsys.readouterr().out)
    assert (said["state"], said["means"]) == ("new", {"opus": "other", "haiku": ""})
    assert main(["profile", "trust"]) == 0 == main(["profile", "show"])
    capsys.readouterr()
    path.write_text(GOOD)
    assert main(["profile", "list", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {
        "profiles": {"a": {"opus": "other"}},
        "projects": [{"path": os.path.realpath(path), "state": "changed"}],
    }
    path.unlink()
    assert main(["profile", "untrust", str(box / "project")]) == 0
    assert main(["profile", "untrust"]) == 66 and trust.known(box / "state") == {}
    (box / "other.toml").write_text(GOOD)
    assert main(["profile", "trust", str(box / "other.toml")]) == 66


# ---- what a choice makes of the slots


def test_an_asked_for_profile_comes_before_the_projects_and_none_is_none(box: Path) -> None:
    wrote(box, 'haiku = "qwen-3-coder-work"\n')
    assert launched(box, profile="a")[0][HAIKU] == "other"
    assert launched(box, profile="none")[0][HAIKU] == "qwen-3-coder"
    assert launched(box)[0][HAIKU] == "qwen-3-coder-work"
    assert launched(box, profile="a", models={"haiku": "qwen-3-coder"})[0][HAIKU] == "qwen-3-coder"
    wrote(box, trusted=False)
    assert launched(box, profile="a")[1] == [], "nobody looks at the project's file"


def test_a_choice_is_part_of_the_overlays_name_and_of_its_recipe(box: Path) -> None:
    plain = launched(box)[2]
    by_name, by_other = launched(box, profile="a")[2], launched(box, profile="b")[2]
    wrote(box)
    assert len({plain, by_name, by_other, launched(box)[2]}) == 4
    assert lasting.recipes(str(box / "overlays"))[by_name].profile == {"profile": "a"}
    # A file of a former version keeps its name.
    one = lasting.Recipe({"HOME": "/h"}, {}, None)
    assert one.name == "overlay-" + _former(one) + ".json"


def _former(one: lasting.Recipe) -> str:
    import hashlib

    said = {"env": one.env, "models": {}, "given": None, "model": None, "terminal": False}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def test_a_background_session_follows_its_profile_and_keeps_its_projects_choice(box: Path) -> None:
    path = wrote(box)
    named, of_project = launched(box, profile="a")[2], launched(box)[2]
    path.unlink()
    now = launch.Served(
        Slots("", "", "other"),
        "http://127.0.0.1:5",
        "sk-2",
        known_models=KNOWN,
        rows=ROWS,
        profiles={"a": {"haiku": "qwen-3-coder-work"}},
    )

    def make(one: lasting.Recipe) -> tuple[dict[str, Any], str]:
        made = launch.make(one, now, [], folder=str(box / "overlays"), managed_root=str(box))
        return made.settings, made.script

    assert lasting.rewrite(str(box / "overlays"), make) == (2, [])
    assert json.loads(Path(named).read_text())["env"][HAIKU] == "qwen-3-coder-work"
    assert json.loads(Path(of_project).read_text())["env"][HAIKU] == "other"


def resolved(choice: dict[str, str], slots: Slots = SLOTS, **more: Any) -> tuple[Slots, list[str]]:
    given_ = {"known": KNOWN, "rows": ROWS, **more}
    return profiles.resolve(choice, {"a": {"haiku": "other", "aws_profile": "work"}}, slots, **given_)


def test_an_aws_profile_chooses_the_group_that_signs_with_it() -> None:
    assert resolved({"aws_profile": "work"})[0].haiku == "qwen-3-coder-work"
    assert resolved({"aws_profile": "work", "haiku": "qwen-3-coder-work"})[0].haiku == "qwen-3-coder-work"
    assert resolved({"aws_profile": "work", "subagents": "qwen-3-coder"})[0].subagents == "qwen-3-coder-work"
    assert (
        resolved({"aws_profile": "work"}, Slots("", "", "qwen-3-coder[1m]"))[0].haiku == "qwen-3-coder-work"
    )
    assert resolved({"profile": "a"}) == (Slots("", "", "other"), resolved({"profile": "a"})[1])
    assert "changes nothing" in resolved({"profile": "a"})[1][0]
    assert resolved({})[0] is not None and resolved({}) == (SLOTS, [])


@pytest.mark.parametrize(
    ("choice", "code", "word"),
    [
        ({"profile": "b"}, 64, "[profiles.b]"),
        ({"haiku": "qwen"}, 64, "qwen-3-coder"),
        ({"aws_profile": "nobody"}, 78, "occtl aws route nobody"),
        ({"aws_profile": "work", "haiku": "pair"}, 78, "occtl aws route work"),
        ({"aws_profile": "work", "haiku": "unseen"}, 78, "nothing is known of unseen"),
    ],
)
def test_nothing_is_paid_by_another_than_who_was_chosen(choice: dict[str, str], code: int, word: str) -> None:
    with pytest.raises(OcdError) as caught:
        resolved(choice, known=[*KNOWN, "pair", "unseen"])
    assert caught.value.exit_code == code and word in caught.value.sentence()


PATTERNS: list[dict[str, Any]] = [
    {"model": "claude-*", "asks": "anthropic/claude-*", "signs": None},
    {"model": "claude-haiku-*", "asks": "bedrock/h", "signs": ""},
    {"model": "h-work", "asks": "bedrock/h", "signs": "work"},
]


def test_a_slot_that_is_not_pinned_is_paid_by_who_was_chosen_too() -> None:
    """As with the preset bedrock: Claude Code's own names go to AWS."""
    rows_ = [*ROWS, *PATTERNS]
    found, _ = resolved({"aws_profile": "work"}, Slots("", "", ""), rows=rows_)
    assert found == Slots("", "", "h-work"), "opus and sonnet are Anthropic's"
    found, _ = resolved({"aws_profile": "work", "haiku": "claude-haiku-9"}, Slots("", "", ""), rows=rows_)
    assert found.haiku == "h-work"
    with pytest.raises(OcdError) as caught:
        resolved({"aws_profile": "work"}, Slots("", "", ""), rows=[*ROWS, *PATTERNS[:2]])
    assert "claude-haiku-*" in caught.value.what
    # without a route for new names a slot has the first group of its family
    old = [
        {"model": "claude-haiku-9", "asks": "bedrock/h", "signs": ""},
        {"model": "h-work", "asks": "bedrock/h", "signs": "work"},
    ]
    found, _ = resolved(
        {"aws_profile": "work"}, Slots("", "", ""), rows=old, known=["claude-haiku-9", "h-work"]
    )
    assert found.haiku == "h-work"
    own = [*PATTERNS[:1], {"model": "claude-haiku-*", "asks": "bedrock/h", "signs": "work"}]
    assert resolved({"aws_profile": "work"}, Slots("", "", ""), rows=own)[0] == Slots("", "", "")


def test_everything_on_aws_gets_a_route_for_each_slot(folders: Folders) -> None:
    assert main(["init", "--preset", "bedrock", "--force"]) == 0
    assert main(["aws", "route", "work"]) == 0
    settings = load(folders, {})
    stack = read_stack(folders, settings)
    found, notices = profiles.resolve(
        {"aws_profile": "work"}, {}, Slots("", "", ""), rows=[*rows(stack, {}), *patterns(stack)]
    )
    assert notices == []
    assert found == Slots(*(f"claude-{slot}-bedrock-work" for slot in ("opus", "sonnet", "haiku", "fable")))


def test_an_aws_profile_is_not_guessed_while_nothing_is_known() -> None:
    with pytest.raises(OcdError) as caught:
        resolved({"aws_profile": "work"}, rows=[])
    assert caught.value.exit_code == 69


# ---- ocd.toml, and the groups


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[profiles.a]\nhaik = "x"\n', "profiles.a.haik"),
        ("[profiles.a]\nhaiku = 1\n", "profiles.a.haiku"),
        ('[profiles.none]\nhaiku = "x"\n', "profiles"),
        ('[profiles."a b"]\nhaiku = "x"\n', "profiles"),
        ("profiles = 1\n", "profiles"),
        ('[profiles.a]\nurl = "https://x"\n', "profiles.a.url"),
    ],
)
def test_mistakes_in_profiles_name_their_key(text: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Path("/x/ocd.toml"), text, {})
    assert caught.value.findings[0].key == key and caught.value.findings[0].line


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    monkeypatch.setenv("OCD_PREFIX", str(tmp_path))
    assert main(["init", "--preset", "mixed"]) == 0
    return Folders.find()


def test_a_route_is_added_once_with_no_key_and_no_address_of_its_own(
    folders: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_text() for path in folders.config.iterdir()}
    assert main(["aws", "route", "work", "--dry-run"]) == 0
    assert {path: path.read_text() for path in folders.config.iterdir()} == before
    assert main(["aws", "route", "work"]) == 0
    bedrock = (folders.config / "litellm-bedrock.yaml").read_text()
    assert "model_name: qwen-3-coder-work" in bedrock and "aws_profile_name: work" in bedrock
    settings = load(folders, {})
    known = {row["model"]: (row["asks"], row["signs"]) for row in rows(read_stack(folders, settings), {})}
    assert known["qwen-3-coder"][0] == known["qwen-3-coder-work"][0]
    assert known["qwen-3-coder"][1] == settings.aws_profile and known["qwen-3-coder-work"][1] == "work"
    assert twin.plan(folders, settings, "work") == ({"qwen-3-coder": "qwen-3-coder-work"}, {})
    capsys.readouterr()
    assert main(["undo"]) == 0
    assert {path: path.read_text() for path in folders.config.iterdir()} == before


def test_a_route_follows_the_slots_model_and_is_refused_for_what_is_not_on_aws(folders: Folders) -> None:
    assert main(["aws", "route", "work"]) == 0
    assert main(["model", "set", "haiku", "bedrock/converse/amazon.nova-pro-v1:0"]) == 0
    assert main(["aws", "route", "work"]) == 0
    known = {row["model"]: row["asks"] for row in rows(read_stack(folders, load(folders, {})), {})}
    assert known["qwen-3-coder-work"] == known["qwen-3-coder"] == "bedrock/converse/amazon.nova-pro-v1:0"
    assert main(["aws", "route", "work", "claude-opus-9"]) == 64
    assert main(["aws", "route", "a b"]) == 64
    assert main(["config", "set", "slots.haiku", ""]) == 0
    assert main(["aws", "route", "work"]) == 78


def test_a_group_of_several_ways_signs_with_none_of_them_alone(folders: Folders) -> None:
    path = folders.config / "litellm-bedrock.yaml"
    text = path.read_text()
    entry = text[text.index("  - model_name: qwen-3-coder") : text.index("\nlitellm_settings")]
    more = entry.replace("os.environ/OCD_AWS_PROFILE", "work")
    path.write_text(text.replace(entry, entry.rstrip("\n") + "\n" + more))
    (row,) = [
        one for one in rows(read_stack(folders, load(folders, {})), {}) if one["model"] == "qwen-3-coder"
    ]
    assert " " in row["signs"], "no profile is called so"


def test_a_worktree_is_a_repository_too(box: Path) -> None:
    """A worktree's ``.git`` is a file."""
    (box / "wt" / "sub").mkdir(parents=True)
    (box / "wt" / ".git").write_text("gitdir: /nowhere\n")
    (box / project.FILE).write_text(GOOD)
    assert project.find(str(box / "wt" / "sub")) == ""
    (box / "wt" / project.FILE).write_text(GOOD)
    assert project.find(str(box / "wt" / "sub")) == os.path.realpath(box / "wt" / project.FILE)
