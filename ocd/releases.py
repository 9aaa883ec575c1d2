"""Other LiteLLMs than the one that serves: which there are, resolved to a lock, installed beside it from that lock.

The index is asked through uv or pip, as the user has set them up; no host is named here.
"""

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ocd import provision
from ocd.errors import EX_DATAERR, EX_UNAVAILABLE, EX_USAGE, OcdError
from ocd.service.base import template

#: before this one, a single proxy hands the plan's token to Bedrock (BerriAI/litellm#37905)
OLDEST = (1, 99)
LATEST = "latest"
_VERSION = re.compile(r"v?\d+\.\d+\.\d+([a-z0-9.+-]*)")
#: seconds for one program
_LIMIT = 900


def judge(version: str, force: bool) -> None:
    """Raise OcdError (exit code 64) for what is not a version, steals credentials, or is too old without ``force``."""
    if not _VERSION.fullmatch(version):
        raise OcdError(
            f"{version!r} is not a version", "one looks like 1.106.12", exit_code=EX_USAGE, code="usage"
        )
    if provision.refused(version):
        raise OcdError(
            f"LiteLLM {version} is refused",
            "this release carried code that steals credentials (BerriAI/litellm#24512)",
            "Choose another version",
            exit_code=EX_USAGE,
            code="refused-version",
        )
    if provision.release(version) < OLDEST and not force:
        raise OcdError(
            f"LiteLLM {version} is too old",
            "versions before 1.99 pass the plan's token on to Bedrock; only ocd's own boundary would hold it back",
            "Choose a newer one, or say --force",
            exit_code=EX_USAGE,
            code="old-version",
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What the index says: the newest LiteLLM, the newest whose proxy can be installed here (empty: none), and why
    the installed one was withdrawn (``yanked``, empty: it was not)."""

    newest: str
    installable: str
    yanked: str


class Releases:
    """Below ``envs``, with a folder of its own for tools that is gone when the ``with`` block ends."""

    def __init__(self, envs: Path, wheels: str = "", full: bool = False) -> None:
        self.envs = envs
        self.full = full
        self.wheels = os.path.abspath(wheels) if wheels else ""
        self.work = provision.build_folder(envs)
        self.base = os.path.realpath(sys.executable)

    def __enter__(self) -> "Releases":
        self.envs.mkdir(mode=0o700, parents=True, exist_ok=True)
        provision.remove_abandoned(self.envs)
        provision.remove(self.work)
        self.work.mkdir(mode=0o700)
        (self.work / "uv.txt").write_text(template("requirements", "uv.txt"))
        self.tools = provision.Tools(
            self.base, self.work, self.work / "uv.txt", self.run, (OcdError,), self.wheels
        )
        return self

    def __exit__(self, *_error: object) -> None:
        provision.remove(self.work)

    def run(self, command: list[str], what: str) -> str:
        return self.outcome(command, what).stdout

    def outcome(self, command: list[str], what: str) -> subprocess.CompletedProcess[str]:
        """Run a program with nothing of the user's but the index. Raises OcdError (69) with its last words."""
        done = subprocess.run(
            command,
            env=provision.isolated(os.environ, self.work),
            cwd=self.work,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_LIMIT,
        )
        if done.returncode:
            said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            causes = [line for line in said if line.startswith(("cause:", "Because", "ERROR"))]
            raise OcdError(
                f"Cannot {what}",
                (causes or said[-1:] or [f"exit status {done.returncode}"])[0],
                "Check the version's number, the network and the disk",
                exit_code=EX_UNAVAILABLE,
                code="install-failed",
            )
        return done

    # ---- resolving

    def lock(self, version: str) -> str:
        """A requirement file with the hash of every package of this LiteLLM, for this Python and system.

        For the version that ocd comes with it is the lock that ocd was tested with.
        """
        shipped = template("requirements", "litellm-full.txt" if self.full else "litellm.txt")
        if f"\nlitellm=={version} " in shipped:
            return shipped
        wanted = "litellm[proxy]" + ("" if version == LATEST else f"=={version}")
        return self.resolve(wanted, *_also())

    def resolve(self, *wanted: str) -> str:
        if uv := self.tools.uv():
            return self.run([*self.compile(uv), self.requirements(*wanted)], f"resolve {wanted[0]}")
        command = [*self.tools.pip(), "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--report", "-", "--only-binary", ":all:", *self.tools.source, *wanted]
        report = self.run(command, f"resolve {wanted[0]}")
        return from_report(json.loads(report), set() if self.full else _left_out())

    def compile(self, uv: str) -> list[str]:
        command = [uv, "--no-config", "pip", "compile", "--quiet", "--python", self.base, "--generate-hashes"]
        command += ["--only-binary", ":all:", "--no-header", "--no-annotate", "--no-emit-index-url"]
        files = ["--overrides", self.file("litellm-overrides.in")]
        if not self.full:
            files += ["--excludes", self.file("litellm-trim.in")]
        return [*command, *self.tools.source, *files]

    def file(self, name: str) -> str:
        (self.work / name).write_text(template("requirements", name))
        return str(self.work / name)

    def requirements(self, *wanted: str) -> str:
        (self.work / "wanted.in").write_text("\n".join(wanted) + "\n")
        return str(self.work / "wanted.in")

    # ---- installing

    def install(self, lock: str) -> Path:
        """An environment from a lock, at its final place, with its stamp; what is left of an earlier try is removed.

        Raises OcdError; then nothing of it is left.
        """
        version = locked(lock)
        folder = self.envs / f"litellm-{version}-{hashlib.sha256(lock.encode()).hexdigest()[:12]}"
        path = self.work / "litellm.txt"
        path.write_text(lock)

        def fill(python: str) -> None:
            self.tools.install(python, path, f"install LiteLLM {version}")
            if not self.full:
                provision.trim(folder)
            what, why = provision.trouble(folder)
            if what:
                raise OcdError(
                    f"LiteLLM {version} must not run",
                    f"{what}: {why}",
                    "Do not use this version",
                    exit_code=EX_DATAERR,
                    code="litellm-refused",
                )

        self.tools.environment(folder, fill)
        return folder

    # ---- what the index says

    def ask(self, installed: str) -> Answer:
        """Raises OcdError when the index cannot be asked."""
        if uv := self.tools.uv():
            plain = [uv, "--no-config", "pip", "compile", "--python", self.base, "--no-header"]
            plain += ["--no-annotate", "--no-deps", "--only-binary", ":all:", *self.tools.source]
            newest = locked(self.run([*plain, self.requirements("litellm")], "ask the index for LiteLLM"))
            yanked = ""
            if installed:
                command = [*plain, self.requirements(f"litellm=={installed}")]
                said = self.outcome(command, "ask the index").stderr
                found = re.search(r"is yanked(?: \(reason: (.*)\))?", said)
                yanked = (found.group(1) or "no reason given") if found else ""
        else:
            newest, _ = self.report("litellm")
            yanked = self.report(f"litellm=={installed}")[1] if installed else ""
        installable = ""
        with contextlib.suppress(OcdError):
            installable = locked(self.resolve("litellm[proxy]", *_also()))
        return Answer(newest, installable, yanked)

    def report(self, wanted: str) -> tuple[str, str]:
        """(version, why it was withdrawn) by pip's report."""
        command = [*self.tools.pip(), "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps"]
        command += ["--only-binary", ":all:", "--report", "-", *self.tools.source, wanted]
        (one,) = json.loads(self.run(command, f"ask the index for {wanted}"))["install"]
        return one["metadata"]["version"], "withdrawn" if one.get("is_yanked") else ""


def locked(lock: str) -> str:
    """LiteLLM's version in a requirement file. Raises OcdError when it has none."""
    if not (version := provision.locked(lock)):
        raise OcdError(
            "The index has no LiteLLM", "", "Check the index", exit_code=EX_UNAVAILABLE, code="install-failed"
        )
    return version


def _lines(name: str) -> Iterator[str]:
    for line in template("requirements", name).splitlines():
        if line.strip() and not line.startswith("#"):
            yield line.strip()


def _also() -> list[str]:
    """What is installed beside LiteLLM, whatever its version."""
    return [line for line in _lines("litellm.in") if not line.startswith("litellm")]


def _left_out() -> set[str]:
    return set(_lines("litellm-trim.in"))


def from_report(report: dict[str, Any], left_out: set[str]) -> str:
    """pip's report (its documented format 1) as a requirement file with hashes and without addresses.

    A file of a folder (``--find-links``) has no hash there; it is computed.
    """
    lines = []
    for item in report["install"]:
        name = re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower()
        if name in left_out:
            continue
        info = item["download_info"]
        digest = info.get("archive_info", {}).get("hashes", {}).get("sha256")
        if not digest and info["url"].startswith("file:"):
            digest = hashlib.sha256(Path(unquote(urlsplit(info["url"]).path)).read_bytes()).hexdigest()
        if not digest:
            raise OcdError(
                f"{name} cannot be locked",
                "the index gives no SHA-256 for it",
                "Use an index that has one",
                exit_code=EX_UNAVAILABLE,
                code="install-failed",
            )
        lines.append(f"{name}=={item['metadata']['version']} --hash=sha256:{digest}")
    return "\n".join(sorted(lines)) + "\n"
