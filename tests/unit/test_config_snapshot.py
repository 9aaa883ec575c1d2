"""Which files a proxy depends on, and the revisions made of them."""

import os
import stat
from pathlib import Path

import pytest

from ocd.errors import OcdError
from ocd.settings.folders import Folders
from ocd.settings.load import load
from ocd.stack.defaults import write_defaults
from ocd.stack.inputs import inputs
from ocd.stack.snapshot import Revision, prune, take


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    found = Folders(
        tmp_path / "config", tmp_path / "share", tmp_path / "state", tmp_path / "run", tmp_path / "bin"
    )
    write_defaults(found)
    return found


def revise(folders: Folders, proxy: str = "main", **environ: str) -> Revision:
    return take(folders, load(folders, environ), proxy)


def listed(folders: Folders, proxy: str = "main") -> set[Path]:
    return set(inputs(folders, load(folders, {}), proxy))


def test_the_default_files_depend_on_themselves_and_bedrock_on_aws(folders: Folders, tmp_path: Path) -> None:
    assert listed(folders) == {folders.config / "litellm.yaml"}
    aws = tmp_path / "home" / ".aws"
    assert listed(folders, "bedrock") == {
        folders.config / "litellm-bedrock.yaml", aws / "config", aws / "credentials"
    }  # fmt: skip


def test_includes_links_and_named_code_count(folders: Folders, tmp_path: Path) -> None:
    real = tmp_path / "real.yaml"
    real.write_text("include: [more.yaml]\nlitellm_settings: {callbacks: [hooks.audit.handler]}\n")
    main = folders.config / "litellm.yaml"
    main.unlink()
    main.symlink_to(real)
    (folders.config / "more.yaml").write_text("include: [third.yaml, litellm.yaml]\n")
    (folders.config / "third.yaml").write_text("model_list: []\n")
    package = folders.config / "hooks"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "audit.py").write_text("handler = object()\n")
    (folders.config / "helper.py").write_text("")
    (folders.config / "notes.txt").write_text("")
    names = ("litellm.yaml", "more.yaml", "third.yaml", "hooks/__init__.py", "hooks/audit.py", "helper.py")
    assert listed(folders) == {real, *(folders.config / name for name in names)}


def test_code_that_no_file_names_does_not_count(folders: Folders) -> None:
    (folders.config / "stray.py").write_text("")
    assert folders.config / "stray.py" not in listed(folders)


@pytest.mark.parametrize("text", ["", "a: [", "[]", "include: 3\n", "include: [gone.yaml]\n", "\xff"])
def test_broken_files_are_still_watched(folders: Folders, text: str) -> None:
    (folders.config / "litellm.yaml").write_text(text)
    assert folders.config / "litellm.yaml" in listed(folders)


def test_a_missing_include_is_watched_for(folders: Folders) -> None:
    (folders.config / "litellm.yaml").write_text("include: [gone.yaml]\n")
    assert folders.config / "gone.yaml" in listed(folders)


def test_the_same_content_is_the_same_revision_in_a_private_copy(folders: Folders) -> None:
    first = revise(folders)
    assert first == revise(folders) and len(first.id) == 12
    assert first.config.read_bytes() == (folders.config / "litellm.yaml").read_bytes()
    assert first.folder == folders.state / "revisions" / "main" / first.id
    for path in (first.folder, first.config):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    assert [p.name for p in first.folder.parent.iterdir()] == [first.id]


def test_what_changes_a_revision_and_what_does_not(folders: Folders, tmp_path: Path) -> None:
    first = revise(folders)
    assert revise(folders, OCD_LITELLM__ARGS='["--x"]').id != first.id
    assert revise(folders, OCD_PROXIES__MAIN__WORKERS="2").id != first.id
    assert revise(folders, OCD_PROXIES__MAIN__ENV='{"A": "b"}').id != first.id
    assert revise(folders, OCD_BEDROCK_PORT="4999").id != first.id
    assert revise(folders, OCD_PROXIES__MAIN__SPARE="false", OCD_AWS_PROFILE="other").id == first.id
    with (folders.config / "litellm.yaml").open("a") as file:
        file.write("# a comment\n")
    assert revise(folders).id != first.id


def test_aws_files_count_for_bedrock_and_are_never_copied(folders: Folders, tmp_path: Path) -> None:
    first = revise(folders, "bedrock")
    aws = tmp_path / "home" / ".aws"
    aws.mkdir(parents=True)
    (aws / "credentials").write_text("aws_secret_access_key = hush")
    second = revise(folders, "bedrock")
    assert second.id != first.id
    assert not any(b"hush" in p.read_bytes() for p in second.folder.rglob("*") if p.is_file())


def test_includes_and_modules_come_along_upwards_too(folders: Folders, tmp_path: Path) -> None:
    (tmp_path / "shared.yaml").write_text("model_list: []\n")
    (folders.config / "sub").mkdir()
    (folders.config / "sub" / "more.yaml").write_text("router_settings: {}\n")
    (folders.config / "hook.py").write_text("x = 1\n")
    (folders.config / "litellm.yaml").write_text(
        "include: [../shared.yaml, sub/more.yaml]\nlitellm_settings: {callbacks: [hook.x]}\n"
    )
    revision = revise(folders)
    inside = sorted(str(p.relative_to(revision.config.parent)) for p in revision.config.parent.rglob("*.*"))
    assert inside == ["hook.py", "litellm.yaml", "sub/more.yaml"]
    assert (revision.config.parent / "../shared.yaml").resolve().is_relative_to(revision.folder)


def test_a_damaged_copy_is_made_anew(folders: Folders) -> None:
    first = revise(folders)
    first.config.write_text("half")
    assert revise(folders).config.read_bytes() == (folders.config / "litellm.yaml").read_bytes()
    assert [p.name for p in first.folder.parent.iterdir()] == [first.id]


def test_a_full_disk_leaves_nothing(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OcdError) as caught:
        revise(folders)
    assert caught.value.exit_code == 73
    assert not list((folders.state / "revisions" / "main").iterdir())


def test_prune_keeps_what_it_is_told(folders: Folders) -> None:
    first = revise(folders)
    second = revise(folders, OCD_BEDROCK_PORT="4999")
    (first.folder.parent / ".new-left").mkdir()
    assert set(prune(folders, "main", {second.id})) == {first.id, ".new-left"}
    assert [p.name for p in second.folder.parent.iterdir()] == [second.id]
    assert prune(folders, "bedrock", set()) == []


def test_a_missing_file_makes_no_revision(folders: Folders) -> None:
    (folders.config / "litellm.yaml").unlink()
    with pytest.raises(OcdError) as caught:
        revise(folders)
    assert caught.value.exit_code == 78
