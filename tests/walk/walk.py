#!/usr/bin/env python3
"""Walk through the first ten minutes as a new user does: a fresh HOME, the README, no PATH; then take it all away.

    python3 tests/walk/walk.py             on this machine, in a HOME of its own
    python3 tests/walk/walk.py --debian    in a new Debian (debootstrap, root needed), as a new user of it
    python3 tests/walk/walk.py --deb       the like, from the Debian package instead of a checkout

Every command of the README that can be run without an account is run as printed, in a login shell that begins with an
empty environment; so is every command that the set-up itself prints. What they print is the transcript. Standard
library only. Exit codes: 0 all went as it should, 1 it did not, 69 the walk is not possible here (why is said).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EX_UNAVAILABLE = 69
#: how to get to the package index here: whoever walks has that set up, too
WAY_OUT = re.compile(
    r"(PIP_(CERT|INDEX_URL|EXTRA_INDEX_URL|FIND_LINKS|PROXY)|SSL_CERT_(FILE|DIR)|https?_proxy|no_proxy)$",
    re.I,
)
#: commands between backticks in the README that look only
LOOKING = re.compile(
    r"occtl (status|logs|events|doctor|aws (status|policy)|usage|sessions|metrics|models|explain|config (check|path)"
    r"|service status|claude status)$"
)
#: the command's own answers besides 0: 3 something is missing (no AWS login here), 66, 69, 78 with a reason
ANSWERS = {"occtl": {0, 3, 66}, "openclaude": {0, 69}}
#: the README's other command starts the whole test suite
NOT_WALKED = ("make test",)
#: put in for the words in capitals
FILLED = {"NAME": "haiku", "SLOT": "haiku", "MODEL": "haiku"}


class Walk:
    """One person's way. ``shell(text)`` types a line; ``failed`` collects what was not as it should be."""

    def __init__(self, home: str, prefix: list[str], env: dict[str, str], root: Path) -> None:
        self.home, self.prefix, self.env, self.root = home, prefix, env, root
        self.failed: list[str] = []
        self.figures: dict[str, float] = {}
        self.folder = home

    def shell(self, text: str, fine: set[int] | None = None, kind: str = "-lc", quiet: bool = False) -> str:
        """Type ``text`` into a shell that begins with nothing but HOME and how to reach the index; its output."""
        env = {"HOME": self.home, "TERM": "dumb", "SHELL": "/bin/bash", **self.env}
        words = [f"{name}={value}" for name, value in env.items()]
        line = f"cd {shlex.quote(self.folder)} && {text}"
        began = time.monotonic()
        done = subprocess.run(
            [*self.prefix, "env", "-i", *words, "/bin/bash", kind, line],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=900,
            cwd="/",
        )
        seconds = time.monotonic() - began
        print(f"\n$ {text}" + (f"          # exit {done.returncode}" if done.returncode else ""))
        lines = done.stdout.rstrip().splitlines()
        if quiet and len(lines) > 40:
            lines = [*lines[:15], f"… {len(lines) - 20} lines …", *lines[-5:]]
        print("\n".join(lines))
        print(f"({seconds:.1f} s)", flush=True)
        if done.returncode not in (fine or {0}) or "Traceback (most recent" in done.stdout:
            self.failed.append(f"{text}: exit {done.returncode}")
        self.last = seconds
        return done.stdout

    # ------------------------------------------------------------------------------------------------

    def all(self) -> int:
        before = self.tree()
        if self.package:
            commands = ["ocd-setup", *readme(ROOT / "README.md")[1:]]
        else:
            self.shell(f"git clone --quiet {shlex.quote(self.source)} ocd")
            self.folder = f"{self.home}/ocd"
            commands = readme(self.path(self.folder) / "README.md")
        install = commands.pop(0)
        said = self.shell(install)
        if self.failed:
            print("\n".join(f"FAILED {one}" for one in self.failed))
            return 1
        self.figures["install_seconds"] = round(self.last, 1)
        self.figures["disk_mb"] = self.disk()
        printed = re.findall(r"^    ((?:export|echo|fish_add_path) .*)$", said, re.MULTILINE)
        if not printed:
            self.failed.append("set-up did not say how to put its folder on the PATH")
        # In this shell: the first line, and then each command of the README after it.
        here = "".join(f"{line}; " for line in printed if line.startswith("export"))
        for command in commands:
            first = command.split()[0]
            self.shell(here + command, ANSWERS.get(first), quiet=True)
        for line in printed:
            self.shell(line)
        self.shell("occtl version", kind="-ic")
        self.shell("occtl setup", {0, 3}, kind="-ic")
        again = self.shell(install)
        self.figures["again_seconds"] = round(self.last, 1)
        if "nothing to do" not in again:
            self.failed.append("the second run changed something")
        self.shell(f"{install} --uninstall --purge")
        left = sorted(set(self.tree()) - set(before) - {"ocd", ".bashrc"})
        left = [path for path in left if not path.startswith("ocd/")]
        if left:
            self.failed.append(f"left behind: {', '.join(left[:10])}")
        if alive := self.processes():
            self.failed.append(f"still running: {alive}")
        self.figures["commands"] = len(commands) + len(printed) + 5
        print("\n" + json.dumps(self.figures))
        print("\n".join(f"FAILED {one}" for one in self.failed) or "All as it should be.")
        return 1 if self.failed else 0

    source = str(ROOT)
    #: a Debian package is installed here, and this is no walk from a checkout
    package = False

    def path(self, inside: str) -> Path:
        return self.root / inside.lstrip("/")

    def tree(self) -> list[str]:
        home = self.path(self.home)
        return [str(path.relative_to(home)) for path in home.rglob("*")]

    def disk(self) -> int:
        """Megabytes of what set-up has made, hard links once."""
        done = subprocess.run(
            ["du", "-sm", "--exclude=ocd/.git", str(self.path(f"{self.home}/.local"))],
            capture_output=True,
            text=True,
        )
        return int(done.stdout.split()[0]) if done.stdout else 0

    def processes(self) -> list[int]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if f"HOME={self.home}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
            except OSError:
                continue
        return found


def readme(path: Path) -> list[str]:
    """The commands to type: those in fences first, as they come; then what the text names between backticks."""
    text = path.read_text(encoding="utf-8")
    found = []
    for block in re.findall(r"^```(?:sh)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            command = re.split(r"\s{2,}", line.strip().removeprefix("$ "))[0]
            if re.match(r"(occtl|openclaude|make|python3) ?[a-z]*", command) and "──" not in line:
                found.append(command)
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for inline in re.findall(r"`(occtl [^`]+)`", text):
        words = [FILLED.get(word, word) for word in inline.split()]
        if LOOKING.match(" ".join(word for word in words if word != "haiku")):
            found.append(" ".join(words))
    return [one for one in dict.fromkeys(found) if one not in NOT_WALKED]


def way_out() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if WAY_OUT.match(name)}


def busy(port: int) -> bool:
    with socket.socket() as sock:
        sock.settimeout(1)
        return sock.connect_ex(("127.0.0.1", port)) == 0


def here() -> int:
    with tempfile.TemporaryDirectory(prefix="ocd-walk-", dir="/tmp") as home:
        walk = Walk(home, [], way_out(), Path("/"))
        # Root's login shells set no XDG_RUNTIME_DIR; its own runtime folder would be the machine's.
        walk.env["XDG_RUNTIME_DIR"] = f"{home}/.run"
        os.mkdir(f"{home}/.run", 0o700)
        return walk.all()


def debian(package: bool) -> int:
    """A new Debian below a temporary folder, a new user in it; ``package``: ocd comes as a package of it."""
    program = shutil.which("debootstrap")
    if program is None or os.getuid() != 0:
        print("walk: needs debootstrap (apt install debootstrap) and root", file=sys.stderr)
        return EX_UNAVAILABLE
    # What apt reads, and no other file of that folder (sources.list(5)).
    lists = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*.list"))]
    lists += sorted(Path("/etc/apt/sources.list.d").glob("*.sources"))
    texts = [path.read_text() for path in lists if path.is_file()]
    address = re.compile(r"^(?:URIs:|deb(?: \[.*?\])? ) *(\S+)", re.MULTILINE)
    mirror = next((found[1] for text in texts if (found := address.search(text))), "")
    folder = tempfile.mkdtemp(prefix="ocd-walk-", dir="/tmp")
    try:
        return in_debian(folder, program, mirror, package)
    finally:
        # What is mounted below it is the machine's own: first that, and where it stays, all stays.
        for place in reversed(mounts(folder)):
            subprocess.run(["umount", "-l", place], check=False)
        if mounts(folder):
            print(f"walk: {folder} is left: something is mounted below it", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def mounts(folder: str) -> list[str]:
    """Where something is mounted below ``folder``, in the order of mounting."""
    places = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    return [place for place in places if place.startswith(folder + "/")]


def in_debian(folder: str, program: str, mirror: str, package: bool) -> int:
    root = Path(folder)
    packages = "python3,python3-venv,git,ca-certificates,procps"
    began = time.monotonic()
    code = os.environ.get("WALK_SUITE") or "bookworm"
    made = subprocess.run(
        [
            program,
            "--variant=minbase",
            f"--include={packages}",
            code,
            folder,
            *([mirror] if mirror else []),
        ],
        stdout=subprocess.DEVNULL,
    )
    if made.returncode:
        print("walk: debootstrap makes no Debian here", file=sys.stderr)
        return EX_UNAVAILABLE
    print(f"(Debian {code} made in {time.monotonic() - began:.0f} s)")
    # A folder of this machine's is not there.
    env = {name: value for name, value in way_out().items() if not os.path.isdir(value)}
    for path in ["/etc/pip.conf", "/etc/resolv.conf", "/etc/hosts", *env.values()]:
        if path.startswith("/") and os.path.isfile(path):
            (root / path.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, root / path.lstrip("/"))
    subprocess.run(["git", "clone", "--quiet", "--bare", str(ROOT), f"{folder}/source.git"], check=True)
    chroot = ["chroot", folder]
    subprocess.run([*chroot, "useradd", "-m", "-s", "/bin/bash", "ada"], check=True)
    subprocess.run([*chroot, "chown", "-R", "ada", "/source.git"], check=True)
    # Not the machine's own /dev: debootstrap makes what is needed, and all of this is removed afterwards.
    os.chmod(folder, 0o755)
    for kind, place in (("proc", "proc"), ("tmpfs", "tmp")):
        if not os.path.ismount(f"{folder}/{place}"):
            subprocess.run(["mount", "-t", kind, kind, f"{folder}/{place}"], check=True)
    walk = Walk("/home/ada", [*chroot, "setpriv", "--reuid=ada", "--regid=ada", "--init-groups"], env, root)
    walk.source = "/source.git"
    if not package:
        return walk.all()
    built = subprocess.run(
        [sys.executable, "-m", "packages.deb", f"{folder}/srv"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    if built.returncode:
        return 1
    name = os.path.basename(built.stdout.strip())
    subprocess.run([*chroot, "dpkg", "-i", f"/srv/{name}"], check=True)
    walk.package = True
    code = walk.all()
    # What the package has brought goes with it.
    subprocess.run([*chroot, "dpkg", "--purge", name.partition("_")[0]], check=True)
    if left := [
        path
        for path in ("usr/bin/ocd-setup", f"usr/share/{name.partition('_')[0]}")
        if (root / path).exists()
    ]:
        print(f"FAILED left behind by the package: {left}")
        return 1
    return code


def main() -> int:
    parser = argparse.ArgumentParser(description="Walk through the first ten minutes as a new user does.")
    parser.add_argument("--debian", action="store_true", help="in a new Debian (debootstrap, root needed)")
    parser.add_argument("--deb", action="store_true", help="there, from the Debian package")
    options = parser.parse_args()
    if taken := [port for port in (4000, 4001) if busy(port)]:
        print(f"walk: the README's ports are taken here: {taken}", file=sys.stderr)
        return EX_UNAVAILABLE
    return debian(options.deb) if options.debian or options.deb else here()


if __name__ == "__main__":
    sys.exit(main())
