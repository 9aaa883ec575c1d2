"""Another LiteLLM: judged, resolved, tested before it serves, and gone when it is worse."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ocd import provision, releases
from ocd.ctl import litellm
from ocd.ctl.__main__ import main
from ocd.errors import OcdError
from ocd.keeper import folders
from ocd.selftest.run import Report, Row
from ocd.settings.folders import Folders
from ocd.settings.schema import Settings
from ocd.supervisor.supervision import litellm_env


def test_an_environment_that_every_user_may_write_to_is_refused(tmp_path: Path) -> None:
    env = tmp_path / "env"
    (env / "lib").mkdir(parents=True)
    assert provision.trouble(env) == ("", "")
    env.chmod(0o777)
    what, why = provision.trouble(env)
    assert str(env) in what and f"chmod o-w {env}" in why
    with pytest.raises(OcdError, match="chmod o-w"):
        folders.refuse_open(str(env / "lib"))


@pytest.mark.parametrize(
    ("version", "numbers"),
    [
        ("1.82.8", (1, 82, 8)),
        ("01.82.8", (1, 82, 8)),
        ("1.82.8.0.0", (1, 82, 8)),
        ("v1.82.8", (1, 82, 8)),
        ("0!1.82.8+local.1", (1, 82, 8)),
        ("1.82.80", (1, 82, 80)),
        ("1.0.0", (1,)),
        ("main", ()),
    ],
)
def test_versions_are_compared_as_installers_do(version: str, numbers: tuple[int, ...]) -> None:
    assert provision.release(version) == numbers
    assert provision.refused(version) is (numbers == (1, 82, 8))


@pytest.mark.parametrize(
    ("version", "code"),
    [
        ("1.82.8.0", "refused-version"),
        ("01.82.7", "refused-version"),
        ("v1.82.8", "refused-version"),
        ("1.98.1", "old-version"),
        ("../x", "usage"),
        ("latest", "usage"),
    ],
)
def test_what_may_not_be_used(version: str, code: str) -> None:
    with pytest.raises(OcdError) as caught:
        releases.judge(version, force=False)
    assert caught.value.code == code
    if code == "refused-version":
        with pytest.raises(OcdError):
            releases.judge(version, force=True)


def an_environment(folder: Path, version: str, *files: str) -> Path:
    site = folder / "lib" / "python3.11" / "site-packages"
    (site / f"litellm-{version}.dist-info").mkdir(parents=True)
    (site / "litellm").mkdir()
    (folder / "bin").mkdir()
    (folder / "bin" / "python").write_text('#!/bin/sh\ntouch "$0.ran"\n')
    (folder / "bin" / "python").chmod(0o755)
    for name in files:
        (site / name).write_text("import x\n")
    (folder / ".complete").touch()
    return folder


@pytest.mark.parametrize(
    ("version", "files"), [("1.82.8.0", ()), ("1.106.2", ("sitecustomize.py",)), ("1.106.2", ("x.pth",))]
)
@pytest.mark.parametrize("named", [True, False])
def test_an_environment_that_must_not_run_is_not_run(
    version: str, files: tuple[str, ...], named: bool, tmp_path: Path
) -> None:
    folders = Folders(*(tmp_path / name for name in ("config", "share", "state", "run", "bin")))
    env = an_environment(tmp_path / "their own" if named else folders.data / "litellm", version, *files)
    settings = Settings.model_validate({"litellm": {"python": str(env / "bin" / "python")}} if named else {})
    with pytest.raises(OcdError) as caught:
        litellm_env.python(settings, folders)
    assert caught.value.code == "litellm-refused" and caught.value.exit_code == 65
    assert not (env / "bin" / "python.ran").exists()


def test_a_report_of_pip_over_a_folder_of_wheels_becomes_a_lock(tmp_path: Path) -> None:
    wheel = tmp_path / "a b-1.0-py3-none-any.whl"
    wheel.write_bytes(b"wheel")
    digest = hashlib.sha256(b"wheel").hexdigest()

    def item(name: str, info: dict[str, Any]) -> dict[str, Any]:
        return {"metadata": {"name": name, "version": "1.0"}, "download_info": info}

    report = {
        "install": [
            item("b", {"url": wheel.as_uri(), "archive_info": {}}),
            item("a", {"url": "https://x/a.whl", "archive_info": {"hashes": {"sha256": "12"}}}),
            item("Polars", {"url": "https://x/p.whl", "archive_info": {"hashes": {"sha256": "34"}}}),
        ]
    }
    text = f"a==1.0 --hash=sha256:12\nb==1.0 --hash=sha256:{digest}\n"
    assert releases.from_report(report, {"polars"}) == text
    with pytest.raises(OcdError, match="cannot be locked"):
        releases.from_report({"install": [item("c", {"url": "https://x/c.whl"})]}, set())


def test_what_differs_between_two_versions_is_said_and_what_is_worse_counts() -> None:
    old = [
        Row("opus", "o", "Anthropic", "plan token", True),
        Row("count", "o", "none", "", True),
        Row("x", ok=False),
    ]
    new = [
        Row("opus", "o", "Anthropic", "plan token", True),
        Row("count", "o", "Anthropic", "plan token", True),
        Row("x", ok=False),
        Row("GET /models", ok=False, note="status 500"),
    ]
    differs, worse = litellm.differences(Report(False, old), Report(False, new, ["A problem."]))
    assert differs == ["count: none ok → Anthropic ok", "GET /models: status 500", "A problem."]
    assert worse == ["GET /models: status 500", "A problem."]
    assert litellm.differences(Report(False, old), Report(False, old)) == ([], [])


def test_what_the_index_says_is_said_in_sentences() -> None:
    assert litellm.check_lines("1.2", "1.2", "1.2", "") == [
        "LiteLLM 1.2 serves.",
        "There is none that is newer.",
    ]
    said = " ".join(litellm.check_lines("1.2", "1.4", "1.3", "stolen"))
    assert all(word in said for word in ("withdrawn", "stolen", "1.3 can be installed", "1.4 is the newest"))


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("OCD_PREFIX", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    data = tmp_path / "share"
    data.mkdir()
    (data / "litellm").symlink_to(an_environment(data / "envs" / "litellm-1.106.2-abc", "1.106.2"))
    yield tmp_path


@pytest.mark.parametrize("good", [True, False])
def test_a_version_is_tested_before_it_serves_and_gone_when_it_is_worse(
    good: bool, prefix: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    envs, link = prefix / "share" / "envs", prefix / "share" / "litellm"
    before = os.readlink(link)
    tested: list[str] = []

    async def run(
        _folders: Any, _settings: Any, *, litellm_python: str, routes: bool, progress: Any
    ) -> Report:
        assert os.readlink(link) == before, "it serves before it is tested"
        tested.append(litellm_python)
        new = "1.200.0" in litellm_python
        return Report(
            good or not new, [Row("GET /models", ok=good or not new, note="" if good else "status 500")]
        )

    monkeypatch.setattr("ocd.selftest.run.run", run)
    monkeypatch.setattr(
        releases.Releases, "lock", lambda self, version: "litellm==1.200.0 --hash=sha256:00\n"
    )

    def install(self: Any, lock: str) -> Path:
        return an_environment(self.envs / "litellm-1.200.0-def", "1.200.0")

    monkeypatch.setattr(releases.Releases, "install", install)
    code = main(["litellm", "use"])
    said = capsys.readouterr()
    assert len(tested) == 2
    assert not list(envs.glob(".build-*"))
    if good:
        assert code == 0 and os.readlink(link).endswith("litellm-1.200.0-def"), said
    else:
        assert code == 75 and "status 500" in said.err and os.readlink(link) == before
        assert [path.name for path in envs.iterdir()] == ["litellm-1.106.2-abc"]


def test_an_installation_that_fails_leaves_nothing(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provision.Tools, "uv", lambda self: "/nonexistent/uv")
    monkeypatch.setattr(
        provision.Tools, "make", lambda self, folder: str(an_environment(folder, "1.3.0", "x.pth"))
    )
    monkeypatch.setattr(provision.Tools, "install", lambda self, *_arguments: None)
    envs = prefix / "share" / "envs"
    with releases.Releases(envs) as some, pytest.raises(OcdError) as caught:
        some.install("litellm==1.3.0 --hash=sha256:00\n")
    assert caught.value.code == "litellm-refused"
    assert [path.name for path in envs.iterdir()] == ["litellm-1.106.2-abc"]


def test_every_python_that_is_started_is_isolated_and_runs_in_a_folder_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`venv.py` or a folder `pip` where somebody stands is not run."""
    for name in ("venv", "pip", "ensurepip"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with releases.Releases(tmp_path / "envs") as some:
        some.tools.make(tmp_path / "envs" / "one")
        assert (tmp_path / "envs" / "one" / "bin" / "python").exists()
    assert not (tmp_path / "ran").exists()
