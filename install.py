#!/usr/bin/env python3
"""Set up ocd for this user: no root, no questions, nothing but the standard library.

    python3 install.py                 install or upgrade, start, show the status
    python3 install.py --dry-run       say what would be done
    python3 install.py --prefix DIR    keep everything under one folder
    python3 install.py --uninstall     leave nothing behind but your configuration

Two private environments are made in the data folder, one for the daemon and one for LiteLLM, both from lists that
name every file's hash. Links named ``current`` and ``litellm`` point to them and are swapped in one step, so an
upgrade never has a broken moment. Exit codes follow sysexits.h.
"""

import sys

if sys.version_info < (3, 11):
    sys.stderr.write(
        "ocd needs Python 3.11 or newer, this is %d.%d. Install one and run it: python3.11 install.py\n"
        % sys.version_info[:2]
    )
    sys.exit(69)

import argparse
import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import time
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent
COMMANDS = ("ocd", "occtl", "openclaude")
#: releases that carried credential-stealing code (BerriAI/litellm#24512, #24518)
REFUSED = ("1.82.7", "1.82.8")
#: files that run at every interpreter start; setuptools' own is the only one that we know and expect
KNOWN_PTH = ("distutils-precedence.pth",)
MARK = "# written by ocd's install.py"
READY_SECONDS = 90

EX_USAGE, EX_UNAVAILABLE, EX_OSERR, EX_CANTCREAT, EX_IOERR, EX_NOPERM = 64, 69, 71, 73, 74, 77


class Failure(Exception):
    """What failed, why, what to do; ``code`` is the exit code."""

    def __init__(self, what, why="", step="", code=EX_OSERR):
        text = what + (": " + why if why else "")
        super().__init__(text.rstrip(".") + "." + (" " + step.rstrip(".") + "." if step else ""))
        self.code = code


# ------------------------------------------------------------------------------------------------ folders


class Places:
    """Where everything goes; the same rules as ocd/config/folders.py."""

    def __init__(self, prefix):
        home = Path(os.path.expanduser("~"))
        if prefix:
            root = Path(os.path.abspath(os.path.expanduser(prefix)))
            self.config, self.data, self.state = root / "config", root / "share", root / "state"
            self.bin, self.runtime = root / "bin", [root / "run", short_runtime(str(root / "run"))]
            self.prefix = str(root)
        elif sys.platform == "darwin":
            base = home / "Library" / "Application Support" / "ocd"
            self.config, self.data, self.state = base, base / "share", base / "state"
            self.bin = home / ".local" / "bin"
            self.runtime = [home / "Library" / "Caches" / "TemporaryItems" / "ocd"]
            self.prefix = ""
        else:
            self.config = xdg("XDG_CONFIG_HOME", home / ".config") / "ocd"
            self.data = xdg("XDG_DATA_HOME", home / ".local" / "share") / "ocd"
            self.state = xdg("XDG_STATE_HOME", home / ".local" / "state") / "ocd"
            self.bin = home / ".local" / "bin"
            runtime = xdg("XDG_RUNTIME_DIR", Path("/run/user/%d" % os.getuid()))
            self.runtime = [runtime / "ocd", Path("/tmp/ocd-%d" % os.getuid())]
            self.prefix = ""
        self.envs = self.data / "envs"
        self.current = self.data / "current"
        self.litellm = self.data / "litellm"
        self.log = self.state / "install.log"

    def environment(self):
        """For our own commands: the user's, with the prefix and without another project's Python settings."""
        env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
        if self.prefix:
            env["OCD_PREFIX"] = self.prefix
        # pip asks `rustc --version` for its user agent, and rustup then makes a folder in the user's HOME.
        env.setdefault("RUSTUP_HOME", str(self.data / ".rustup"))
        cache = Path(os.path.expanduser("~")) / (
            "Library/Caches/pip" if sys.platform == "darwin" else ".cache/pip"
        )
        if "PIP_CACHE_DIR" not in env and not cache.exists():
            # Whoever has no cache of pip's gets none from us: uninstalling leaves the machine as it was.
            env["PIP_NO_CACHE_DIR"] = "1"
        return env


def xdg(name, default):
    value = os.environ.get(name, "")
    return Path(value) if os.path.isabs(value) else default


def short_runtime(folder):
    """As ocd/paths.py: where a path would be too long for a socket."""
    return Path("/tmp/ocd-%d-%08x" % (os.getuid(), zlib.crc32(folder.encode())))


# -------------------------------------------------------------------------------------------- what to install


def locked_version(lock, name):
    """The exact version of a package in a requirement file's text, or None."""
    found = re.search(r"^%s==([^\s;\\]+)" % re.escape(name), lock, re.MULTILINE)
    return found.group(1) if found else None


def refuse_known_bad(lock):
    """Raise Failure when a lock names a release that steals credentials."""
    version = locked_version(lock, "litellm")
    if version in REFUSED:
        raise Failure(
            "LiteLLM %s is refused" % version,
            "this release carried code that steals credentials (BerriAI/litellm#24512)",
            "Get a requirements/litellm.txt that names another version",
            EX_USAGE,
        )


def our_version(root=ROOT):
    return re.search(r'__version__ = "([^"]+)"', (root / "ocd" / "__init__.py").read_text()).group(1)


def source_hash(root=ROOT):
    """A name for exactly this code and these locks."""
    digest = hashlib.sha256()
    paths = [root / "pyproject.toml", root / "install.py"]
    for folder in ("ocd", "units", "plists", "requirements"):
        paths += [
            p for p in sorted((root / folder).rglob("*")) if p.is_file() and "__pycache__" not in p.parts
        ]
    for path in paths:
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    digest.update(sys.version.encode())
    return digest.hexdigest()[:12]


def lock_hash(text):
    return hashlib.sha256((text + sys.version).encode()).hexdigest()[:12]


def strange_pth(env):
    """``.pth`` files that run code at every start and are not known ones."""
    found = []
    for path in sorted(env.glob("lib/python*/site-packages/*.pth")):
        code = any(
            line.startswith(("import ", "import\t"))
            for line in path.read_text("utf-8", "replace").splitlines()
        )
        if path.name not in KNOWN_PTH and code:
            found.append(path.name)
    return found


# ------------------------------------------------------------------------------------------------ launchers


def launcher(command, places, python, site):
    """The text of one command. It goes through ``current``: an upgrade needs no new launcher.

    ``-I -S`` where nothing but our own code and the standard library is needed: that halves openclaude's start.
    """
    isolated = command == "openclaude"
    flags = "-IS" if isolated else "-I"
    if len(python) + len(flags) < 120 and not re.search(r"\s", python):
        head = "#!%s %s\n" % (python, flags)
    else:
        # The kernel cuts long paths and splits at spaces; a shell does neither.
        head = "#!/bin/sh\n'''exec' \"%s\" %s \"$0\" \"$@\"\n' '''\n" % (python, flags)
    module = {"ocd": "ocd.__main__", "occtl": "ocd.ctl.__main__", "openclaude": "ocd.client.__main__"}[
        command
    ]
    lines = [head + MARK, "import sys"]
    if isolated:
        lines.append("sys.path.insert(0, %r)" % site)
    if places.prefix:
        lines += ["import os", 'os.environ.setdefault("OCD_PREFIX", %r)' % places.prefix]
    lines += ["from %s import main" % module, "sys.exit(main())", ""]
    return "\n".join(lines)


def replace_file(path, text, mode):
    temporary = path.with_name(".%s.%d" % (path.name, os.getpid()))
    try:
        temporary.write_text(text)
        temporary.chmod(mode)
        os.replace(str(temporary), str(path))
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def replace_link(link, target):
    """Point a link elsewhere in one step."""
    temporary = link.with_name(".%s.%d" % (link.name, os.getpid()))
    with contextlib.suppress(OSError):
        temporary.unlink()
    temporary.symlink_to(target)
    os.replace(str(temporary), str(link))


# --------------------------------------------------------------------------------------------------- steps


class Screen:
    """A line per step; on a terminal the step under way moves."""

    def __init__(self):
        self.began = time.monotonic()
        self.live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"

    def say(self, text):
        self.clear()
        print("[%5.1f s] %s" % (time.monotonic() - self.began, text), flush=True)

    def tick(self, text):
        if self.live:
            width = shutil.get_terminal_size().columns - 1
            line = "[%5.1f s] %s" % (time.monotonic() - self.began, text)
            print("\r\033[K" + line[:width], end="", flush=True)

    def clear(self):
        if self.live:
            print("\r\033[K", end="", flush=True)


class Installer:
    """Every step is skipped when its result is there already; ``changed`` tells whether any was needed."""

    def __init__(self, options):
        self.o = options
        self.p = Places(options.prefix)
        self.screen = Screen()
        self.changed = []
        self.made = []

    # ------------------------------------------------------------------------------------ little helpers

    def step(self, text):
        """Announce one change; returns False when it is only to be talked about."""
        self.changed.append(text)
        if self.o.dry_run:
            print("would " + text)
            return False
        self.screen.say(text)
        return True

    def folder(self, path, mode=0o755):
        missing = []
        here = path
        while not here.exists():
            missing.append(here)
            here = here.parent
        try:
            path.mkdir(parents=True, exist_ok=True, mode=mode)
        except OSError as error:
            raise Failure(
                "the folder %s cannot be made" % path, error.strerror or "", "Make it writable", EX_CANTCREAT
            ) from None
        self.made += missing
        if missing:
            self.remember()

    def remember(self):
        """Note which folders are ours to remove again."""
        record = self.p.data / "made-folders"
        known = record.read_text().splitlines() if record.exists() else []
        fresh = [str(path) for path in self.made if str(path) not in known]
        if fresh and self.p.data.is_dir():
            with open(str(record), "a") as file:
                file.write("".join(line + "\n" for line in fresh))

    def run(self, command, what, counts=None):
        """Run a program, its output into the log; on failure its last lines are shown."""
        self.folder(self.p.state, 0o700)
        with open(str(self.p.log), "ab") as log:
            log.write(("\n$ " + " ".join(command) + "\n").encode())
            log.flush()
            os.chmod(str(self.p.log), 0o600)
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=self.p.environment(),
            )
            lines, count = [], 0
            try:
                for raw in process.stdout:
                    log.write(raw)
                    line = raw.decode("utf-8", "replace").rstrip()
                    lines = [*lines[-40:], line]
                    count += line.startswith(
                        ("Collecting", "Downloading", "  Downloading", "Using cached", "  Using cached")
                    )
                    self.screen.tick("%s%s" % (what, " (%d files)" % count if count else ""))
            except BaseException:
                process.kill()
                process.wait()
                raise
            code = process.wait()
        self.screen.clear()
        if code:
            useful = [line for line in lines if line.strip() and not line.startswith(("WARNING", "[notice]"))]
            raise Failure(
                "%s failed (exit %d)" % (what, code),
                " | ".join(useful[-3:])[-500:],
                self.advice("\n".join(lines)),
                EX_UNAVAILABLE,
            )

    def advice(self, output):
        if "ensurepip" in output:
            return (
                "Install the system's package python3-venv (Debian, Ubuntu: sudo apt install python3-venv),"
                " then run this again"
            )
        if "No space left" in output:
            return "Free some disk space, then run this again; what was installed before still works"
        if (
            "Could not fetch" in output
            or "connection" in output.lower()
            or "No matching distribution" in output
        ):
            return (
                "Check the network, or use --wheels DIR; what was installed before still works."
                " The whole output is in %s" % self.p.log
            )
        return "The whole output is in %s" % self.p.log

    # ------------------------------------------------------------------------------------ environments

    def environment(self, folder, fill, what):
        """A complete environment at its final place; the stamp is written last, so a half-made one is never used."""
        if (folder / ".complete").exists():
            return
        if not self.step(what):
            return
        self.folder(self.p.data, 0o700)
        self.folder(self.p.envs)
        shutil.rmtree(str(folder), ignore_errors=True)
        try:
            self.run([sys.executable, "-m", "venv", str(folder)], "make an environment")
            fill(str(folder / "bin" / "python"))
            (folder / ".complete").touch()
        except BaseException:
            shutil.rmtree(str(folder), ignore_errors=True)
            raise

    def pip(self, python, *arguments):
        source = ["--no-index", "--find-links", self.o.wheels] if self.o.wheels else []
        return [python, "-m", "pip", "--disable-pip-version-check", *arguments[:1], *source, *arguments[1:]]

    def install_locked(self, python, name, what):
        lock = str(ROOT / "requirements" / (name + ".txt"))
        self.run(self.pip(python, "install", "--require-hashes", "--no-deps", "-r", lock), what)

    def fill_ours(self, python):
        self.install_locked(python, "ocd", "install the daemon's packages")
        build = self.p.envs / (".build-%d" % os.getpid())
        try:
            self.run([sys.executable, "-m", "venv", str(build)], "make a place to build in")
            builder = str(build / "bin" / "python")
            self.install_locked(builder, "build", "install what builds ocd")
            # A copy: building must not write into the checkout, which may be read-only.
            copy = build / "source"
            ignore = shutil.ignore_patterns(
                ".git", ".venv*", "__pycache__", ".*_cache", ".hypothesis", "tests"
            )
            shutil.copytree(str(ROOT), str(copy), ignore=ignore, symlinks=True)
            wheels = build / "wheels"
            self.run(
                [
                    builder,
                    "-m",
                    "pip",
                    "--disable-pip-version-check",
                    "wheel",
                    "--no-build-isolation",
                    "--no-deps",
                    "--no-index",
                    "-w",
                    str(wheels),
                    str(copy),
                ],
                "build ocd",
            )
            (wheel,) = wheels.glob("*.whl")
            self.run(
                [
                    python,
                    "-m",
                    "pip",
                    "--disable-pip-version-check",
                    "install",
                    "--no-deps",
                    "--no-index",
                    str(wheel),
                ],
                "install ocd",
            )
        finally:
            shutil.rmtree(str(build), ignore_errors=True)

    def fill_litellm(self, python):
        self.install_locked(python, "litellm", "install LiteLLM (about a minute)")
        env = Path(python).parent.parent
        strange = strange_pth(env)
        if strange:
            raise Failure(
                "LiteLLM's environment has files that run code at every start",
                ", ".join(strange),
                "Do not use this version; see requirements/litellm.txt",
            )

    # ------------------------------------------------------------------------------------ the whole

    def install(self):
        lock = (ROOT / "requirements" / "litellm.txt").read_text()
        refuse_known_bad(lock)
        version = our_version()
        ours = self.p.envs / ("ocd-%s-%s" % (version, source_hash()))
        self.environment(ours, self.fill_ours, "install ocd %s" % version)
        if self.o.litellm_python:
            # Not resolved: a virtual environment's interpreter is itself a link out of it.
            litellm = Path(os.path.abspath(self.o.litellm_python)).parent.parent
        else:
            litellm = self.p.envs / ("litellm-%s-%s" % (locked_version(lock, "litellm"), lock_hash(lock)))
            self.environment(
                litellm, self.fill_litellm, "install LiteLLM %s" % locked_version(lock, "litellm")
            )
        before = {
            link: os.readlink(str(link)) if link.is_symlink() else ""
            for link in (self.p.current, self.p.litellm)
        }
        upgraded = bool(before[self.p.current]) and before[self.p.current] != str(ours)
        for link, target in ((self.p.current, ours), (self.p.litellm, litellm)):
            if link == self.p.litellm and before[link] and not upgraded and not self.o.litellm_python:
                # `occtl litellm use` may have chosen another one.
                continue
            if before[link] != str(target) and self.step("use %s" % target.name):
                replace_link(link, str(target))
        self.launchers(ours)
        self.configuration(ours)
        if not self.o.start:
            return self.conclude(started=False)
        try:
            self.start(upgraded)
        except Failure as failure:
            if upgraded and not self.o.dry_run:
                self.screen.say("going back to the version before")
                for link, target in before.items():
                    if target:
                        replace_link(link, target)
                self.occtl("reexec", check=False)
                raise Failure(
                    "the new version does not serve, the one before does again",
                    str(failure),
                    "See `occtl logs daemon`",
                    EX_UNAVAILABLE,
                ) from None
            raise
        self.prune({str(ours), str(litellm), os.path.realpath(str(self.p.litellm))})
        return self.conclude(started=True)

    def launchers(self, ours):
        python = str(self.p.current / "bin" / "python")
        site = str(self.p.current / "lib" / ("python%d.%d" % sys.version_info[:2]) / "site-packages")
        for command in COMMANDS:
            path = self.p.bin / command
            text = launcher(command, self.p, python, site)
            present = ""
            if path.exists() or path.is_symlink():
                with contextlib.suppress(OSError, UnicodeDecodeError):
                    present = path.read_text()
                if MARK not in present:
                    raise Failure(
                        "%s is there already and is not ours" % path,
                        "",
                        "Move it away, then run this again",
                        EX_CANTCREAT,
                    )
            if present != text and self.step("write %s" % path):
                self.folder(self.p.bin)
                replace_file(path, text, 0o755)

    def configuration(self, ours):
        names = ("ocd.toml", "litellm.yaml", "litellm-bedrock.yaml")
        missing = [name for name in names if not (self.p.config / name).exists()]
        if missing and self.step("write the default configuration: %s" % ", ".join(missing)):
            self.folder(self.p.config, 0o700)
            self.run(
                [str(ours / "bin" / "python"), "-I", "-m", "ocd.config.defaults"], "write the configuration"
            )

    # ------------------------------------------------------------------------------------ the daemon

    def occtl(self, *arguments, check=True, quiet=True):
        out = subprocess.PIPE if quiet else None
        done = subprocess.run(
            [str(self.p.bin / "occtl"), *arguments],
            env=self.p.environment(),
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
        )
        if check and done.returncode:
            why = (done.stderr or b"").decode("utf-8", "replace").strip().splitlines()
            raise Failure(
                "occtl %s failed (exit %d)" % (" ".join(arguments), done.returncode), why[-1] if why else ""
            )
        return done

    def running(self):
        return (
            (self.p.bin / "occtl").exists()
            and self.occtl("version", "--json", check=False).returncode == 0
            and (self.occtl("status", "--json", check=False).stdout or b"").find(b'"running": false') < 0
        )

    def service(self):
        """Have the service manager run it, where one answers; returns whether it does."""
        if self.p.prefix or os.environ.get("OCD_NO_SERVICE"):
            return False
        return self.occtl("service", "install", check=False).returncode == 0

    def start(self, upgraded):
        if self.o.dry_run:
            if self.changed:
                print("would start the daemon, wait until both proxies serve, and show the status")
            return
        if self.running():
            if upgraded:
                self.screen.say("the new version takes over; nothing is interrupted")
                self.occtl("reexec")
                self.wait_ready()
            return
        self.changed.append("start the daemon")
        self.screen.say("start the daemon")
        if not self.service():
            self.occtl("start", check=False)
        self.wait_ready()

    def wait_ready(self):
        deadline = time.monotonic() + READY_SECONDS
        text = b""
        while time.monotonic() < deadline:
            self.screen.tick("waiting until both proxies serve")
            done = self.occtl("status", "--json", check=False)
            if done.returncode == 0:
                self.screen.clear()
                return
            text = done.stdout or text
            if b'"crash-loop"' in text or b'"blocked"' in text or b'"failed"' in text:
                break
            time.sleep(0.2)
        self.screen.clear()
        self.occtl("status", check=False, quiet=False)
        raise Failure(
            "the proxies do not serve",
            "the table above says why",
            "Run `occtl status` and `occtl logs main`",
            EX_UNAVAILABLE,
        )

    def prune(self, keep):
        if self.o.dry_run or not self.p.envs.is_dir():
            return
        for folder in self.p.envs.iterdir():
            chosen = folder.name.startswith("litellm-") and (folder / ".complete").exists()
            if folder.is_dir() and str(folder) not in keep and not chosen:
                shutil.rmtree(str(folder), ignore_errors=True)

    def conclude(self, started):
        if self.o.dry_run:
            if not self.changed:
                print("nothing to do: everything is installed and up to date")
            return 0
        if not self.changed:
            self.screen.say("nothing to do: everything is installed and up to date")
        else:
            self.screen.say("done")
        if started:
            self.occtl("status", check=False, quiet=False)
        if str(self.p.bin) not in os.environ.get("PATH", "").split(os.pathsep):
            shell = os.path.basename(os.environ.get("SHELL", "sh"))
            place = {"zsh": "~/.zprofile", "bash": "~/.profile", "fish": "~/.config/fish/config.fish"}.get(
                shell, "~/.profile"
            )
            line = (
                "fish_add_path %s" % self.p.bin if shell == "fish" else 'export PATH="%s:$PATH"' % self.p.bin
            )
            print("\n%s is not on your PATH. Add this line to %s:\n    %s" % (self.p.bin, place, line))
        print("\nTry it: occtl selftest     Use it: openclaude     Look after it: occtl status")
        return 0

    # ------------------------------------------------------------------------------------ uninstall

    def uninstall(self):
        places = [self.p.data, self.p.state, *self.p.runtime]
        launchers = [self.p.bin / name for name in COMMANDS]
        ours = [path for path in launchers if path.is_file() and MARK in path.read_text("utf-8", "replace")]
        there = [path for path in places if path.exists()] + ours
        if self.o.purge and self.p.config.exists():
            there.append(self.p.config)
        if not there:
            print("ocd is not installed here; nothing to do")
            return 0
        record = self.p.data / "made-folders"
        made = [Path(line) for line in record.read_text().splitlines()] if record.exists() else []
        if self.o.dry_run:
            print("would stop the daemon")
            for path in there:
                print("would remove %s" % path)
            return 0
        if (self.p.bin / "occtl").exists() and self.p.current.exists():
            self.screen.say("stop the daemon")
            if not self.p.prefix:
                self.occtl("service", "uninstall", check=False)
            self.occtl("stop", check=False)
        for path in ours:
            path.unlink()
        for path in places:
            shutil.rmtree(str(path), ignore_errors=True)
        if self.o.purge:
            shutil.rmtree(str(self.p.config), ignore_errors=True)
        for folder in sorted(
            {*made, *([Path(self.p.prefix)] if self.p.prefix else [])}, key=lambda f: -len(f.parts)
        ):
            with contextlib.suppress(OSError):
                folder.rmdir()
        kept = (
            ""
            if self.o.purge or not self.p.config.exists()
            else "; your configuration is still in %s" % self.p.config
        )
        self.screen.say("removed" + kept)
        return 0


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="install.py", description="Set up ocd for this user: no root, no questions."
    )
    parser.add_argument("--prefix", metavar="DIR", default="", help="keep everything under one folder")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--no-start", dest="start", action="store_false", help="install only; start nothing")
    parser.add_argument(
        "--wheels", metavar="DIR", default="", help="install from a folder of wheels, offline"
    )
    parser.add_argument(
        "--litellm-python",
        metavar="PATH",
        default="",
        help="use the LiteLLM of this interpreter's environment",
    )
    parser.add_argument("--uninstall", action="store_true", help="remove everything but your configuration")
    parser.add_argument("--purge", action="store_true", help="with --uninstall: the configuration too")
    options = parser.parse_args(arguments)
    if options.purge and not options.uninstall:
        parser.error("--purge goes with --uninstall")
    if options.wheels:
        options.wheels = os.path.abspath(options.wheels)
    return options


def main(arguments=None):
    options = parse(arguments)
    os.umask(0o022)
    installer = Installer(options)
    try:
        return installer.uninstall() if options.uninstall else installer.install()
    except Failure as failure:
        installer.screen.clear()
        sys.stderr.write("install.py: %s\n" % failure)
        return failure.code
    except KeyboardInterrupt:
        installer.screen.clear()
        sys.stderr.write(
            "install.py: interrupted; what was installed before still works. Run it again to go on.\n"
        )
        return 130
    except OSError as error:
        installer.screen.clear()
        sys.stderr.write(
            "install.py: %s: %s. What was installed before still works.\n"
            % (error.filename or "a file", error.strerror)
        )
        return EX_IOERR


if __name__ == "__main__":
    sys.exit(main())
