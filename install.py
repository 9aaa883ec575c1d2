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
    import os
    import subprocess

    # Newest first. One that does not run, or is not what its name says (a version manager's shim), is passed over.
    for name in ("python3.14", "python3.13", "python3.12", "python3.11", "python3"):
        for folder in os.environ.get("PATH", "").split(os.pathsep):
            newer = os.path.join(folder, name)
            if not os.path.isabs(folder) or not os.access(newer, os.X_OK):
                continue
            try:
                code = "import sys; print(sys.version_info >= (3, 11))"
                if subprocess.check_output([newer, "-I", "-c", code], stderr=subprocess.STDOUT) != b"True\n":
                    continue
                sys.stderr.write("This is Python %d.%d, too old for ocd: " % sys.version_info[:2])
                sys.stderr.write("going on with %s.\n" % newer)
                sys.stderr.flush()
                os.execv(newer, [newer, os.path.abspath(__file__), *sys.argv[1:]])
            except (OSError, subprocess.CalledProcessError):
                continue
    sys.stderr.write(
        "ocd needs Python 3.11 or newer, this is %d.%d, and there is no newer one on your PATH. Install one and run "
        "it: python3.12 install.py. With uv: uv run --no-project --python 3.12 install.py\n"
        % sys.version_info[:2]
    )
    sys.exit(69)

import argparse
import contextlib
import errno
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sysconfig
import threading
import time
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent


def load_provision():
    """What the package knows about environments, from the checkout; nothing is written into it."""
    spec = importlib.util.spec_from_file_location("ocd_provision", str(ROOT / "ocd" / "provision.py"))
    module = importlib.util.module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


provision = load_provision()
COMMANDS = ("ocd", "occtl", "openclaude")
CONFIGURATION = ("ocd.toml", "litellm.yaml", "litellm-bedrock.yaml")
MARK = "# written by ocd's install.py"
#: the man pages and what completes in shells, in a version's folder
MANUALS, COMPLETIONS = "ocd/man", "ocd/completions"
READY_SECONDS = 90
#: for which requirements/*.txt have wheels; the README's table and tests/unit/test_platforms.py have the details
SYSTEMS, PROCESSORS = ("linux", "darwin"), ("x86_64", "amd64", "arm64", "aarch64")
#: what pip, uv and the system say where no packet gets through
NO_NETWORK = re.compile(
    r"name resolution|after connection broken|Name or service not known"
    r"|nodename nor servname|dns error|failed to lookup address"
    r"|Network is unreachable|No route to host|Connection refused|[Cc]onnect(ion)? timed out|tcp connect error"
)
NOTHING = contextlib.nullcontext()

#: what ocd's wheel is built from; nothing else of the checkout is copied
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "ocd", "units", "plists", "requirements")
#: what makes the wheel: the build backend's own entrance (PEP 517), with its packages from a folder of their own
BUILD = """import os, sys
tools, source, wheels = sys.argv[1:]
sys.path.insert(0, tools)
os.makedirs(wheels)
os.chdir(source)
from hatchling.build import build_wheel
build_wheel(wheels)
"""
EX_USAGE, EX_NOINPUT, EX_UNAVAILABLE, EX_OSERR, EX_CANTCREAT = 64, 66, 69, 71, 73
EX_IOERR, EX_TEMPFAIL, EX_NOPERM, EX_CONFIG = 74, 75, 77, 78


class Failure(Exception):
    """What failed, why, what to do; ``code`` is the exit code."""

    def __init__(self, what, why="", step="", code=EX_OSERR):
        text = what + (": " + why if why else "")
        super().__init__(text.rstrip(".") + "." + (" " + step.rstrip(".") + "." if step else ""))
        self.code = code


# ------------------------------------------------------------------------------------------------ folders


class Places:
    """Where everything goes; the same rules as ocd/settings/folders.py."""

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
        #: what is needed while installing only: uv, pip, what builds the daemon; removed at the end
        self.build = self.envs / (".build-%d" % os.getpid())
        self.current = self.data / "current"
        self.litellm = self.data / "litellm"
        self.log = self.state / "install.log"

    def environment(self):
        """For our own commands: the user's, with the prefix and without another project's Python settings."""
        env = provision.isolated(os.environ, self.build)
        if self.prefix:
            env["OCD_PREFIX"] = self.prefix
        # pip asks `rustc --version` for its user agent, and rustup then makes a folder in the user's HOME.
        env.setdefault("RUSTUP_HOME", str(self.data / ".rustup"))
        return env


def listens(path):
    """Whether a process listens on a UNIX socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        try:
            probe.connect(str(path))
        except TimeoutError:
            return True
        except OSError:
            return False
    return True


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


def refuse_known_bad(version, step):
    """Raise Failure, saying which ``step`` helps, when this LiteLLM is one that steals credentials."""
    if provision.refused(version):
        raise Failure(
            "LiteLLM %s is refused" % version,
            "this release carried code that steals credentials (BerriAI/litellm#24512)",
            step,
            EX_USAGE,
        )


def refuse_known_bad_locks(root=ROOT):
    """Raise Failure when any requirement file names such a release, however it is spelled."""
    for path in sorted((root / "requirements").glob("*.txt")):
        for name, version in re.findall(
            r"^\s*(litellm)\s*(?:\[[^\]]*\])?\s*===?\s*([^\s;\\]+)",
            path.read_text(),
            re.MULTILINE | re.IGNORECASE,
        ):
            refuse_known_bad(version, "Get a requirements/%s that names another %s" % (path.name, name))


def refuse_others_home():
    """Raise Failure where HOME belongs to somebody else: `sudo` leaves root's files in a user's folders."""
    home = os.path.expanduser("~")
    with contextlib.suppress(OSError):
        if os.stat(home).st_uid != os.getuid():
            raise Failure(
                "%s does not belong to you" % home,
                "you are user %d here" % os.getuid(),
                "Run this as the user who will use it, without sudo; or name a folder with --prefix",
                EX_NOPERM,
            )


def judge_environment(env):
    """Raise Failure unless somebody else's environment has a LiteLLM that may be used. Nothing in it is run."""
    found = provision.versions(env)
    if not os.access(str(env / "bin" / "python"), os.X_OK) or not found:
        raise Failure(
            "there is no LiteLLM in %s" % env,
            "" if not found else "its bin/python cannot be run",
            "Name the interpreter of a virtual environment that has litellm[proxy], as DIR/bin/python",
            EX_NOINPUT,
        )
    refuse_trouble(env, "Name another environment with --litellm-python", EX_USAGE)


def refuse_trouble(env, step, code):
    """Raise Failure for a release that steals, or files that run at every start: so did the stolen releases."""
    what, why = provision.trouble(env)
    if what:
        raise Failure(what, why, step, code)


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


def is_complete(env):
    """Whether an environment was made to the end, and its Python is still there (it is a link out of it)."""
    return (env / ".complete").exists() and (env / "bin" / "python").exists()


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
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                # A folder's name that the terminal cannot show must not end the installation.
                stream.reconfigure(errors="replace")
        self.live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"

    def say(self, text):
        self.clear()
        self.put("[%5.1f s] %s" % (time.monotonic() - self.began, text))

    def put(self, text):
        """One line, or several, as they are."""
        try:
            print(text, flush=True)
        except BrokenPipeError:
            # Whoever read us (`| head`) has enough; that is no reason to stop half-way.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def tick(self, text):
        if self.live:
            width = shutil.get_terminal_size().columns - 1
            line = "[%5.1f s] %s" % (time.monotonic() - self.began, text)
            print("\r\033[K" + line[:width], end="", flush=True)

    @contextlib.contextmanager
    def moving(self, text):
        """Seconds count on while the block runs; ``text`` is a function, asked four times a second."""
        ended = threading.Event()

        def beat():
            # Not a terminal: a line now and then, so that nobody takes a slow network for a hang.
            while not ended.wait(0.25 if self.live else 10):
                if self.live:
                    self.tick(text())
                else:
                    self.say("  … " + text())

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.clear()

    def clear(self):
        if self.live:
            print("\r\033[K", end="", flush=True)


class Installer:
    """Every step is skipped when its result is there already; ``changed`` tells whether any was needed."""

    def __init__(self, options):
        self.o = options
        self.p = Places(options.prefix)
        self.screen = Screen()
        lock = ROOT / "requirements" / "uv.txt"
        self.tools = provision.Tools(sys.executable, self.p.build, lock, self.run, (Failure,), options.wheels)
        self.changed = []
        self.made = []

    # ------------------------------------------------------------------------------------ little helpers

    def step(self, text):
        """Announce one change; returns False when it is only to be talked about."""
        self.changed.append(text)
        if self.o.dry_run:
            self.screen.put("would " + text)
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
                "the folder %s cannot be made" % path,
                error.strerror or "",
                "Make %s writable, or name another place with --prefix DIR" % here,
                EX_CANTCREAT,
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

    def run(self, command, what):
        """Run a program, its output into the log; on failure its last lines are shown. Returns the output's end."""
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
                # Python looks for modules where it is started, and pip and uv for settings.
                cwd=str(self.p.state),
            )
            lines, counted = [], []
            moving = self.screen.moving(lambda: self.so_far(what, command, len(counted)))
            try:
                with moving:
                    for raw in process.stdout:
                        log.write(raw)
                        line = raw.decode("utf-8", "replace").rstrip()
                        lines = [*lines[-40:], line]
                        if line.startswith(("Collecting", "Processing")):
                            counted.append(line)
            except BaseException:
                process.kill()
                process.wait()
                raise
            finally:
                process.stdout.close()
            code = process.wait()
        self.screen.clear()
        if code:
            self.refuse_platform(lines)
            useful = [line for line in lines if line.strip() and not line.startswith(("WARNING", "[notice]"))]
            errors = [line for line in useful if line.startswith("ERROR")]
            output = "\n".join(lines)
            raise Failure(
                "%s failed (exit %d)" % (what, code),
                " | ".join(errors[-2:] or useful[-3:])[-500:],
                self.advice(output),
                EX_IOERR if "No space left" in output else EX_UNAVAILABLE,
            )
        return "\n".join(lines)

    @staticmethod
    def so_far(what, command, counted):
        """The step, with how many of the lock's packages it has come to (pip says so; uv takes seconds in all)."""
        lock = command[-1] if command[-2:-1] == ["-r"] else ""
        total = provision.packages(Path(lock).read_text()) if lock else 0
        if not total:
            return what
        return (
            "%s (%d of %d packages)" % (what, counted, total)
            if counted
            else "%s (%d packages)" % (what, total)
        )

    @staticmethod
    def refuse_platform(lines):
        """Raise Failure where a lock has no wheel for this system: no network helps."""
        said = " ".join(line.strip() for line in lines)
        found = re.search(r"(\S+?)(?:\{[^}]*\})?==\S+ has no (?:usable )?wheels", said) or re.search(
            r"satisfies the requirement ([^=\s]+)==\S+ \(from versions: (?!none)", said
        )
        if found:
            raise Failure(
                "ocd cannot be installed with this Python on this system",
                "there is no wheel of %s for Python %d.%d on %s %s"
                % (found.group(1), *sys.version_info[:2], sys.platform, os.uname().machine),
                "Try another Python (3.11 to 3.14), or --litellm-python with an environment of your own",
                EX_UNAVAILABLE,
            )

    def advice(self, output):
        if "ensurepip" in output or "No module named venv" in output:
            return (
                "Install the system's package python3-venv (Debian, Ubuntu: sudo apt install python3-venv),"
                " then run this again"
            )
        if "No space left" in output:
            return "Free some disk space, then run this again; what was installed before still works"
        if NO_NETWORK.search(output):
            return (
                "There is no way to the package index: check the network, and HTTPS_PROXY if you need one, or use"
                " --wheels DIR; what was installed before still works. The whole output is in %s" % self.p.log
            )
        if (
            "Could not fetch" in output
            or "connection" in output.lower()
            or "No matching distribution" in output
            or "Failed to fetch" in output
            or "not found in the provided package locations" in output
        ):
            return (
                "Check the network, or use --wheels DIR; what was installed before still works."
                " A Python for which there are no packages yet is another cause: try python3.12 install.py."
                " The whole output is in %s" % self.p.log
            )
        return "The whole output is in %s" % self.p.log

    # ------------------------------------------------------------------------------------ environments

    def refuse_ground(self):
        """Raise Failure, before anything is built, for a system or a Python on which nothing can be."""
        system, machine = sys.platform, os.uname().machine
        if not self.o.wheels and (system not in SYSTEMS or machine.lower() not in PROCESSORS):
            raise Failure(
                "ocd cannot be installed on %s %s" % (system, machine),
                "there are packages for Linux and macOS on x86_64 and arm64",
                "With packages of your own: --wheels DIR",
                EX_UNAVAILABLE,
            )
        if sysconfig.get_config_var("Py_GIL_DISABLED") and not self.o.wheels:
            raise Failure(
                "ocd cannot be installed with %s" % sys.executable,
                "it is a free-threaded Python, for which LiteLLM's packages are not made",
                "Run this with an ordinary Python: python3.12 install.py",
                EX_UNAVAILABLE,
            )
        missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
        if "venv" in missing or (missing and not self.tools.has_uv()):
            raise Failure(
                "this Python cannot make environments",
                "%s has no module %s" % (sys.executable, missing[0]),
                self.advice("No module named venv"),
                EX_UNAVAILABLE,
            )

    def environment(self, folder, fill, what):
        """A complete environment at its final place; the stamp is written last, so a half-made one is never used."""
        if is_complete(folder):
            return
        if not self.step(what):
            return
        self.refuse_ground()
        self.folder(self.p.envs)
        shutil.rmtree(str(folder), ignore_errors=True)
        try:
            fill(self.tools.make(folder))
            # One name whatever the Python's version: launchers go through it and never need to be rewritten.
            (site,) = folder.glob("lib/python*/site-packages")
            (folder / "site").symlink_to(site.relative_to(folder))
            (folder / ".complete").touch()
        except BaseException:
            shutil.rmtree(str(folder), ignore_errors=True)
            raise

    def install_locked(self, python, name, what, *where):
        """Wheels only: building a package from source would fetch its build tools without any hash."""
        self.tools.install(python, ROOT / "requirements" / (name + ".txt"), what, *where)

    def fill_ours(self, python):
        self.install_locked(python, "ocd", "install the daemon's packages")
        # Beside our environment, not in it: nothing of this is needed afterwards.
        tools = str(self.p.build / "tools")
        self.install_locked(python, "build", "install what builds ocd", "--target", tools)
        # A copy: building must not write into the checkout, which may be read-only.
        copy = self.p.build / "source"
        copy.mkdir(parents=True)
        for name in SOURCES:
            if (ROOT / name).is_dir():
                ignore = shutil.ignore_patterns("__pycache__")
                shutil.copytree(str(ROOT / name), str(copy / name), ignore=ignore)
            else:
                shutil.copy(str(ROOT / name), str(copy / name))
        wheels = self.p.build / "wheels"
        self.run([python, "-I", "-c", BUILD, tools, str(copy), str(wheels)], "build ocd")
        (wheel,) = wheels.glob("*.whl")
        self.run([*self.tools.installer(python), "--no-index", "--no-deps", str(wheel)], "install ocd")

    def litellm_lock(self):
        return "litellm-full" if self.o.full else "litellm"

    def fill_litellm(self, python):
        self.install_locked(python, self.litellm_lock(), "install LiteLLM")
        refuse_trouble(
            Path(python).parent.parent, "Do not use this version; see requirements/litellm.txt", EX_OSERR
        )

    # ------------------------------------------------------------------------------------ the whole

    @contextlib.contextmanager
    def alone(self):
        """One install.py at a time; the lock is on the data folder itself and ends with this process."""
        if self.o.dry_run:
            yield
            return
        self.folder(self.p.data, 0o700)
        handle = os.open(str(self.p.data), os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise Failure(
                    "another install.py is at work in %s" % self.p.data,
                    "",
                    "Wait until it is done, then run this again",
                    EX_TEMPFAIL,
                ) from None
            yield
        finally:
            os.close(handle)

    def refuse_foreign_folders(self):
        """A prefix is ours alone: --uninstall removes its share, state and run whole."""
        record = self.p.data / "made-folders"
        if not self.p.prefix or record.exists():
            return
        for folder in (self.p.data, self.p.state, Path(self.p.prefix) / "run"):
            if folder.is_dir() and any(folder.iterdir()):
                raise Failure(
                    "%s cannot be the prefix" % self.p.prefix,
                    "%s holds files that are not ours" % folder,
                    "Name a new or empty folder with --prefix",
                    EX_CANTCREAT,
                )

    def install(self):
        self.refuse_foreign_folders()
        pinned = locked_version((ROOT / "requirements" / "litellm.txt").read_text(), "litellm")
        refuse_known_bad_locks()
        if not self.p.prefix:
            refuse_others_home()
        self.refuse_foreign_commands()
        if self.o.litellm_python:
            # Not resolved: a virtual environment's interpreter is itself a link out of it.
            judge_environment(Path(os.path.abspath(self.o.litellm_python)).parent.parent)
        with self.alone():
            try:
                return self.install_alone(pinned)
            finally:
                shutil.rmtree(str(self.p.build), ignore_errors=True)

    def install_alone(self, pinned):
        version = our_version()
        ours = self.p.envs / ("ocd-%s-%s" % (version, source_hash()))
        self.environment(ours, self.fill_ours, "install ocd %s" % version)
        if self.o.start:
            self.refuse_anothers_daemon(ours, "Give this one a folder of its own with --prefix DIR")
        before = {
            link: os.readlink(str(link)) if link.is_symlink() else ""
            for link in (self.p.current, self.p.litellm)
        }
        # Older code may still run although the link is new: after --no-start, or an interrupted upgrade.
        left = [f for f in self.p.envs.glob("ocd-*") if f != ours] if self.p.envs.is_dir() else []
        replaced = before[self.p.current] not in ("", str(ours))
        litellm = self.choose_litellm(pinned, before[self.p.litellm], replaced)
        running = not self.o.dry_run and self.running()
        # A mistake that was in the configuration before is no fault of the new version.
        suits = running and replaced and self.check_configuration(Path(before[self.p.current]), ours)
        self.launchers()
        self.manuals()
        self.configuration(ours)
        swapped = [
            link
            for link, target in ((self.p.current, ours), (self.p.litellm, litellm))
            if before[link] != str(target)
        ]
        try:
            for link, target in ((self.p.current, ours), (self.p.litellm, litellm)):
                if link in swapped and self.step("use %s" % target.name):
                    replace_link(link, str(target))
            if not self.o.start:
                return self.conclude(started=False)
            self.start(running, bool(swapped or left), suits)
        except (Failure, KeyboardInterrupt) as failure:
            if running and replaced:
                self.go_back(ours, before, failure)
            # Nothing served before: then what is in the way (a busy port, say) is no fault of this version.
            raise
        self.prune({str(ours), str(litellm), os.path.realpath(str(self.p.litellm))})
        return self.conclude(started=True)

    def ctl(self, environment, *arguments):
        """occtl of an environment that need not be the one in use; its output is in the result."""
        return subprocess.run(
            [str(environment / "bin" / "python"), "-I", "-m", "ocd.ctl", *arguments],
            env=self.p.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def refuse_anothers_daemon(self, environment, step):
        """Raise Failure when the daemon that answers belongs to an installation in another HOME of this user's.

        There is one daemon for each user: to go on would mean to replace or to end what serves somebody's work.
        """
        if not (environment / "bin" / "python").exists():
            return
        try:
            folder = json.loads(self.ctl(environment, "config", "show", "--json").stdout)["folder"]
        except (ValueError, KeyError, TypeError):
            return  # what is wrong with it is said when it matters
        home = os.path.realpath(os.path.expanduser("~"))
        theirs, own = os.path.realpath(folder), os.path.realpath(str(self.p.config))
        # Below this HOME it is OCD_CONFIG_DIR or XDG_CONFIG_HOME of the daemon's that this shell does not have.
        if theirs != own and os.path.commonpath([home, theirs]) != home:
            raise Failure(
                "an ocd with another HOME is running; nothing was done to it",
                "its configuration is %s, this one's is %s" % (folder, self.p.config),
                "%s, or end that one first (`occtl stop`)" % step,
                EX_TEMPFAIL,
            )

    def check_configuration(self, old, new):
        """Whether the configuration is good. Raises Failure when it was for ``old`` and is not for ``new``."""
        checks = [self.ctl(env, "config", "check") for env in (old, new)]
        if checks[0].returncode == 0 and checks[1].returncode == EX_CONFIG:
            lines = (checks[1].stdout + checks[1].stderr).decode("utf-8", "replace").strip().splitlines()
            raise Failure(
                "this version does not accept your configuration, so nothing was changed",
                " | ".join(line.strip() for line in lines[:3]),
                "Correct it, then run this again",
                EX_CONFIG,
            )
        return checks[1].returncode == 0

    def choose_litellm(self, pinned, before, replaced):
        """The environment that serves from now on; made if need be.

        ``before`` is what serves now; ``replaced`` says that another ocd than before is being installed.
        """
        if self.o.litellm_python:
            return Path(os.path.abspath(self.o.litellm_python)).parent.parent
        lock = (ROOT / "requirements" / (self.litellm_lock() + ".txt")).read_text()
        folder = self.p.envs / ("litellm-%s-%s" % (pinned, lock_hash(lock)))
        chosen = Path(before) if before else folder
        if chosen != folder and (chosen / "bin" / "python").exists():
            # Running this again does not take back what somebody chose: `occtl litellm use` until the next
            # ocd (which was tested with another LiteLLM), an environment of their own for good.
            theirs = chosen.parent != self.p.envs
            if theirs:
                judge_environment(chosen)
            if theirs or (not replaced and not self.o.full and is_complete(chosen)):
                return chosen
        self.environment(folder, self.fill_litellm, "install LiteLLM %s" % pinned)
        return folder

    def present(self, path):
        """What is in a command's place: our launcher's text, or nothing. Raises Failure on anything else."""
        if not os.path.lexists(str(path)):
            return ""
        text = ""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            text = path.read_text()
        if MARK not in text:
            raise Failure(
                "%s is there already and is not ours" % path,
                "",
                "Move it away, then run this again",
                EX_CANTCREAT,
            )
        return text

    def refuse_foreign_commands(self):
        """Before anything is done rather than after a minute."""
        for command in COMMANDS:
            self.present(self.p.bin / command)

    def launchers(self):
        python, site = str(self.p.current / "bin" / "python"), str(self.p.current / "site")
        for command in COMMANDS:
            path = self.p.bin / command
            text = launcher(command, self.p, python, site)
            if self.present(path) != text and self.step("write %s" % path):
                self.folder(self.p.bin)
                replace_file(path, text, 0o755)

    def manuals(self):
        """Links to man pages and completions of the version in use, where man, bash and fish look for them."""
        for link, target in self.manual_links():
            was = os.readlink(str(link)) if link.is_symlink() else ""
            if os.path.lexists(str(link)) and not (MANUALS in was or COMPLETIONS in was):
                continue  # somebody else's; commands work without
            if was != target and self.step("link %s" % link):
                self.folder(link.parent)
                replace_link(link, target)

    def manual_links(self):
        pages = self.p.bin.parent / "share" / "man"
        for name in ("occtl.1", "openclaude.1", "ocd.1", "ocd.toml.5"):
            yield pages / ("man" + name[-1]) / name, str(self.p.current / "site" / MANUALS / name)
        for folder, name in (
            ("bash-completion/completions", "occtl"),
            ("zsh/site-functions", "_occtl"),
            ("fish/vendor_completions.d", "occtl.fish"),
        ):
            target = str(self.p.current / "site" / COMPLETIONS / name)
            yield self.p.bin.parent / "share" / folder / name, target

    def configuration(self, ours):
        missing = [name for name in CONFIGURATION if not (self.p.config / name).exists()]
        self.fresh = bool(missing)
        if missing and self.step("write the default configuration: %s" % ", ".join(missing)):
            self.folder(self.p.config, 0o700)
            self.run(
                [str(ours / "bin" / "python"), "-I", "-m", "ocd.stack.defaults"], "write the configuration"
            )
            if "ocd.toml" in missing:
                self.ports_of_our_own()

    def ports_of_our_own(self):
        """On a machine where another user has the usual ports: a pair of our own, written down in ocd.toml."""
        if any(os.environ.get(name) for name in ("OCD_PORT", "OPENCLAUDE_LITELLM_PORT", "OCD_BEDROCK_PORT")):
            return
        others = listening(os.getuid())
        port = pair(others[0], others[1])
        path = self.p.config / "ocd.toml"
        text = path.read_text("utf-8")
        if port == USUAL_PORT or not others[0] & {USUAL_PORT, USUAL_PORT + 1}:
            return
        if "\n#port = %d\n" % USUAL_PORT in text and self.step(
            "use the ports %d and %d: the usual ones belong to another user here" % (port, port + 1)
        ):
            line = "\n#port = %d\n" % USUAL_PORT
            replace_file(path, text.replace(line, "\nport = %d\n" % port, 1), 0o600)

    # ------------------------------------------------------------------------------------ the daemon

    def occtl(self, *arguments, check=True, quiet=True):
        out = subprocess.PIPE if quiet else None
        with self.screen.moving(lambda: "waiting for occtl " + " ".join(arguments)) if quiet else NOTHING:
            done = subprocess.run(
                [str(self.p.bin / "occtl"), *arguments],
                env=self.p.environment(),
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
            )
        if check and done.returncode:
            raise Failure(
                "occtl %s failed (exit %d)" % (" ".join(arguments), done.returncode), self.complaint(done)
            )
        return done

    @staticmethod
    def complaint(done):
        """What occtl said went wrong and why, on one line; what to do next is for us to say here."""
        lines = (done.stderr or b"").decode("utf-8", "replace").splitlines()
        said = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("next:")]
        return " ".join(said)

    def status(self):
        """`occtl status --json` as (exit code, parsed); an empty dictionary when it cannot be had."""
        done = self.occtl("status", "--json", check=False)
        try:
            return done.returncode, json.loads(done.stdout)
        except ValueError:
            return done.returncode, {}

    def running(self):
        try:
            return bool(self.status()[1].get("running"))
        except FileNotFoundError:
            # Neither the command nor its Python is there before the first installation.
            return False

    def service_state(self):
        """`occtl service status --json`, parsed; an empty dictionary when a service is out of the question."""
        if self.p.prefix or os.environ.get("OCD_NO_SERVICE"):
            return {}
        try:
            return json.loads(self.occtl("service", "status", "--json", check=False).stdout)
        except ValueError:
            return {}

    def service(self):
        """Have the service manager run it, where one answers; returns whether it does, and says why not."""
        if self.p.prefix or os.environ.get("OCD_NO_SERVICE"):
            return False
        found = self.service_state()
        if not found.get("available"):
            # Why, and what to do about it: WSL, a container, no user bus (ocd/service/manager.py, hint).
            said = (
                self.occtl("service", "status", check=False).stdout.decode("utf-8", "replace").split("\n")[0]
            )
            self.screen.say("no service manager, so it is started by itself; %s" % said.strip())
            return False
        done = self.occtl("service", "install", check=False)
        if done.returncode == 0:
            self.screen.say("%s runs it from now on, at every login too" % found.get("manager"))
            return True
        why = " ".join(done.stderr.decode("utf-8", "replace").split())
        self.screen.say("the service manager could not start it (%s); it is started by itself" % why)
        self.occtl("service", "uninstall", check=False)
        return False

    def start(self, running, outdated, suits):
        """Have the daemon serve this version; ``outdated``: a running one may be of another. Raises Failure.

        ``suits``: the configuration is good, so that proxies which do not take over are the new version's fault.
        """
        if self.o.dry_run:
            if self.changed:
                self.screen.put("would start the daemon, wait until both proxies serve, and show the status")
            return
        renewed = self.renewed()
        try:
            self.start_now(running, outdated, suits)
        finally:
            said = self.renewed()
            if said and said != renewed:
                self.screen.say(said)

    def renewed(self):
        """What the daemon said when it brought files of a former version to today's (ocd/stack/renew.py)."""
        try:
            return next(self.p.state.glob("renewed-*")).read_text()
        except (OSError, StopIteration, ValueError):
            return ""

    def start_now(self, running, outdated, suits):
        if running:
            if outdated:
                self.changed.append("let the new version take over")
                self.screen.say("the new version takes over; nothing is interrupted")
                self.occtl("reexec")
                # The old proxies serve until new ones are ready; this waits for them and says what became of them.
                self.occtl("reload", check=suits)
                self.wait_ready()
                if self.service_state().get("state") == "active":
                    # Newer units; what runs is not touched by it. (launchd would have to start it anew.)
                    self.occtl("service", "install", check=False)
            return
        self.changed.append("start the daemon")
        self.screen.say("start the daemon")
        if not self.service():
            self.occtl("start", check=False)
        self.wait_ready()

    def go_back(self, ours, before, failure):
        """Have the version before serve again after a failed take-over by ``ours``. Always raises Failure."""
        self.screen.say("going back to the version before")
        for link, target in before.items():
            if target:
                replace_link(link, target)
        try:
            self.occtl("reexec" if self.running() else "start")
            self.occtl("reload", check=False)
            self.wait_ready()
        except Failure as worse:
            raise Failure(
                "neither the new version nor the one before serves",
                "%s %s" % (failure, worse),
                "See `occtl logs daemon`, then run `occtl stop` and `occtl start`",
                EX_UNAVAILABLE,
            ) from None
        # Else the next run would take it for old code that still runs.
        shutil.rmtree(str(ours), ignore_errors=True)
        if isinstance(failure, KeyboardInterrupt):
            raise failure
        raise Failure(
            "the new version does not serve, the one before does again",
            str(failure),
            "See `occtl logs daemon`",
            EX_UNAVAILABLE,
        ) from None

    def wait_ready(self):
        deadline = time.monotonic() + READY_SECONDS
        why = "they were not ready within %d s; the table above says how far they are" % READY_SECONDS
        while time.monotonic() < deadline:
            self.screen.tick("waiting until both proxies serve")
            code, status = self.status()
            if code == 0:
                self.screen.clear()
                return
            proxies = status.get("proxies", {}).values()
            if any(proxy.get("state") in ("crash-loop", "blocked", "failed") for proxy in proxies):
                why = "the table above says why"
                break
            time.sleep(0.2)
        self.screen.clear()
        self.occtl("status", check=False, quiet=False)
        raise Failure(
            "the proxies do not serve",
            why,
            "Everything is installed; see `occtl logs main` and `occtl logs daemon`, then run `occtl start`",
            EX_UNAVAILABLE,
        )

    def prune(self, keep):
        if self.o.dry_run or not self.p.envs.is_dir():
            return
        for folder in self.p.envs.iterdir():
            chosen = folder.name.startswith("litellm-") and (folder / ".complete").exists()
            if folder.is_dir() and str(folder) not in keep and not chosen:
                shutil.rmtree(str(folder), ignore_errors=True)

    def offer_migration(self, started):
        """Say that a set-up of before ocd can be brought in; ask where somebody can answer and it can be done now."""
        home = Path(os.path.expanduser("~"))
        old = [
            path
            for name in ("config", "litellm-config")
            for path in (home / ".litellm").glob(name + "*.y*ml")
        ]
        old += [path for path in (home / ".openClaude",) if path.is_dir()]
        if not (self.fresh and old):
            return
        self.screen.put(
            "\nThere is a set-up of before ocd: %s" % ", ".join(str(path) for path in sorted(old))
        )
        if started and sys.stdin.isatty() and self.screen.live:
            try:
                answer = input("Bring it in now (the originals stay as they are)? [y/N] ")
            except EOFError:
                answer = ""
            if answer.strip().lower() in ("y", "yes"):
                self.occtl("migrate", check=False, quiet=False)
                return
        self.screen.put("Bring it in with: occtl migrate     (occtl migrate --dry-run shows what that does)")

    def conclude(self, started):
        self.offer_migration(started)
        if self.o.dry_run:
            if not self.changed:
                self.screen.put("nothing to do: everything is installed and up to date")
            return 0
        if not self.changed:
            self.screen.say("nothing to do: everything is installed and up to date")
        else:
            self.screen.say("done")
        if started:
            self.occtl("status", check=False, quiet=False)
            for line in findings(self.doctor()):
                self.screen.put(line)
        for line in on_path(str(self.p.bin), os.environ, os.path.expanduser("~"), os.path.exists):
            self.screen.put(line)
        self.screen.put("\nTry it: occtl selftest     Use it: openclaude     Look after it: occtl status")
        return 0

    def doctor(self):
        """What `occtl doctor` finds, worst first; nothing when it cannot be had, which is no fault of set-up's."""
        try:
            return json.loads(self.occtl("doctor", "--json", check=False).stdout)["rows"]
        except (ValueError, KeyError, TypeError):
            return []

    # ------------------------------------------------------------------------------------ uninstall

    def end_daemon(self):
        """Stop what runs. Raises Failure, before anything is removed, when it goes on running."""
        occtl = self.p.bin / "occtl"
        if not (occtl.exists() and (self.p.current / "bin" / "python").exists()):
            # A broken installation (its Python is gone, say) cannot stop anything, but can be removed.
            if any(listens(folder / "control.sock") for folder in self.p.runtime):
                raise Failure(
                    "the daemon is running and cannot be stopped, so nothing was removed",
                    "this installation is incomplete",
                    "Run install.py without --uninstall first, or end the process `ocd`",
                    EX_TEMPFAIL,
                )
            return
        self.refuse_anothers_daemon(self.p.current, "Leave this one until later")
        self.give_back_claude_settings()
        self.screen.say("stop the daemon")
        if not self.p.prefix:
            self.occtl("service", "uninstall", check=False)
        done = self.occtl("stop", check=False)
        if done.returncode and self.running():
            raise Failure(
                "the daemon does not stop, so nothing was removed",
                self.complaint(done) or "occtl stop ended with %d" % done.returncode,
                "Stop it with `occtl stop`, then run this again",
                EX_TEMPFAIL,
            )

    def give_back_claude_settings(self):
        """What was written into Claude Code's settings.json, while the note of what it was is still there."""
        records = [self.p.state / name for name in ("claude-settings", "claude-settings.json")]
        if not any(path.exists() for path in records):
            return
        done = self.occtl("claude", "remove", "--all", check=False)
        if done.returncode not in (0, 66):
            raise Failure(
                "Claude Code's settings cannot be put back as they were, so nothing was removed",
                self.complaint(done),
                "Run `occtl claude remove --all`, follow what it says, then run this again",
                EX_TEMPFAIL,
            )

    def uninstall(self):
        if self.p.prefix and not (self.p.data / "made-folders").exists():
            return self.purge_prefix()
        launchers = [self.p.bin / name for name in COMMANDS]
        ours = [path for path in launchers if path.is_file() and MARK in path.read_text("utf-8", "replace")]
        ours += [
            link
            for link, target in self.manual_links()
            if link.is_symlink() and os.readlink(str(link)) == target
        ]
        places = [self.p.data, self.p.state]
        installed = bool(ours) or any(path.exists() for path in places)
        # The runtime folder is the user's, whatever HOME is: without an installation who listens there is not ours.
        places += [folder for folder in self.p.runtime if installed or not listens(folder / "control.sock")]
        there = [path for path in places if path.exists()] + ours
        if self.o.purge and self.p.config.exists():
            there.append(self.p.config)
        if not there:
            self.screen.put("ocd is not installed here; nothing to do")
            return 0
        record = self.p.data / "made-folders"
        made = [Path(line) for line in record.read_text().splitlines()] if record.exists() else []
        if self.o.dry_run:
            self.screen.put("would stop the daemon")
            for path in there:
                self.screen.put("would remove %s" % path)
            return 0
        if installed:
            with self.alone() if self.p.data.is_dir() else NOTHING:
                self.end_daemon()
        for path in ours:
            path.unlink()
        for path in places:
            shutil.rmtree(str(path), ignore_errors=True)
        if self.o.purge:
            self.purge_configuration(made)
        remaining = [path for path in there if path.exists()]
        if remaining:
            raise Failure(
                "not everything could be removed",
                ", ".join(str(path) for path in remaining),
                "Make these folders and what is in them writable, then run this again",
                EX_NOPERM,
            )
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

    def purge_configuration(self, made):
        """The whole folder where it is ours; of somebody else's only our files."""
        if self.p.prefix and self.p.config not in made:
            for name in CONFIGURATION:
                with contextlib.suppress(OSError):
                    (self.p.config / name).unlink()
            with contextlib.suppress(OSError):
                self.p.config.rmdir()
        else:
            shutil.rmtree(str(self.p.config), ignore_errors=True)

    def purge_prefix(self):
        """Nothing is installed below the prefix; what may be left is the configuration of an earlier time."""
        left = any((self.p.config / name).exists() for name in CONFIGURATION)
        if not (left and self.o.purge):
            self.screen.put("ocd is not installed here; nothing to do")
            return 0
        if self.o.dry_run:
            self.screen.put("would remove %s" % self.p.config)
            return 0
        self.purge_configuration([])
        with contextlib.suppress(OSError):
            Path(self.p.prefix).rmdir()
        self.screen.say("removed")
        return 0


#: findings of the doctor's that set-up has said already, or that say that all is as set-up left it
SAID = ("not-on-path", "starting", "stopped")
MOST_FINDINGS = 6


def findings(rows):
    """What stands between this and the first prompt, as lines: each with its reason and the command that helps."""
    wrong = [row for row in rows if row["level"] in ("error", "warning") and row["code"] not in SAID]
    if not wrong:
        return []
    lines = ["", "What is missing or wrong now (`occtl setup` goes through it with you):"]
    for row in wrong[:MOST_FINDINGS]:
        lines.append("  %s %s" % ("✗" if row["level"] == "error" else "!", row["what"]))
        lines += ["      why: %s" % row["why"]] if row["why"] else []
        lines += ["      fix: %s" % row["fix"]] if row["fix"] else []
    if len(wrong) > MOST_FINDINGS:
        lines.append("  and %d more: occtl doctor" % (len(wrong) - MOST_FINDINGS))
    return lines


def on_path(folder, environ, home, exists):
    """How this shell and new ones find the commands in ``folder``, as lines; none when this one does already.

    ``exists`` tells whether a file is there. A new tab reads other files than a new login does: bash(1), INVOCATION;
    zsh(1), STARTUP/SHUTDOWN FILES. On macOS each tab of a terminal is a login.
    """
    if folder in environ.get("PATH", "").split(os.pathsep):
        return []
    shell = os.path.basename(environ.get("SHELL", "sh"))
    short = folder
    if folder.startswith(home + os.sep):
        short = "$HOME" + folder[len(home) :]
    export = 'export PATH="%s:$PATH"' % short
    lines = ["", "%s is not on your PATH. For this shell, and for new ones:" % folder]
    if shell == "fish":
        # It is remembered for all, this one too.
        return [*lines, "    fish_add_path %s" % shlex.quote(folder)]
    if shell == "bash":
        profiles = ("~/.bash_profile", "~/.bash_login", "~/.profile")
        login = next((one for one in profiles if exists(home + one[1:])), "~/.profile")
        files = [login] if sys.platform == "darwin" else ["~/.bashrc"]
    else:
        files = ["~/.zshrc"] if shell == "zsh" else ["~/.profile"]
    lines.append("    " + export)
    return lines + ["    echo %s >> %s" % (shlex.quote(export), file) for file in files]


#: the main proxy's port where nothing says otherwise; the bedrock proxy's is the next one
USUAL_PORT = 4000


def listening(uid, read=lambda name: Path("/proc/net", name).read_text()):
    """The TCP ports on which other users listen here, and those of user ``uid``: (theirs, ours). See proc(5).

    Two empty sets where the system does not tell (macOS): then the daemon says who has the port.
    """
    theirs, ours = set(), set()
    for name in ("tcp", "tcp6"):
        try:
            lines = read(name).splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if len(fields) > 7 and fields[3] == "0A":
                port = int(fields[1].rpartition(":")[2], 16)
                (ours if fields[7] == str(uid) else theirs).add(port)
    return theirs, ours


def pair(theirs, ours):
    """The first port, from the usual one on in steps of ten, that is free together with the one after it.

    A port that a program of this same user's has is no reason to go elsewhere: that program is what `occtl migrate`, or
    the person, deals with; the daemon names it.
    """
    for port in range(USUAL_PORT, USUAL_PORT + 1000, 10):
        taken = theirs if port == USUAL_PORT else theirs | ours
        if not {port, port + 1} & taken:
            return port
    return USUAL_PORT


class Parser(argparse.ArgumentParser):
    """argparse ends with 2 on wrong usage; sysexits.h and our other commands say 64."""

    def error(self, message):
        self.print_usage(sys.stderr)
        self.exit(EX_USAGE, "%s: %s\n" % (self.prog, message))


def parse(arguments):
    parser = Parser(prog="install.py", description="Set up ocd for this user: no root, no questions.")
    # The commands obey OCD_PREFIX, so an installation without --prefix must not be half in one place.
    parser.add_argument(
        "--prefix",
        metavar="DIR",
        default=os.environ.get("OCD_PREFIX", ""),
        help="keep everything under one folder (default: OCD_PREFIX)",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--no-start", dest="start", action="store_false", help="install only; start nothing")
    parser.add_argument(
        "--wheels", metavar="DIR", default="", help="install from a folder of wheels, offline"
    )
    parser.add_argument(
        "--litellm-python",
        metavar="PATH",
        default="",
        help="use the LiteLLM of this interpreter's environment instead of installing one",
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="LiteLLM with all that it has for other providers and its own reports",
    )
    parser.add_argument("--uninstall", action="store_true", help="remove everything but your configuration")
    parser.add_argument("--purge", action="store_true", help="with --uninstall: the configuration too")
    options = parser.parse_args(arguments)
    if options.purge and not options.uninstall:
        parser.error("--purge goes with --uninstall")
    if re.search(r"""[:"$`\\\x00-\x1f]""", options.prefix):
        # PATH is split at colons; the commands' first lines are read by a shell and by Python.
        parser.error('--prefix: a folder with one of : " $ ` \\ or a line break in its name cannot be used')
    if options.wheels:
        options.wheels = os.path.abspath(os.path.expanduser(options.wheels))
        if not os.path.isdir(options.wheels):
            parser.error("--wheels: there is no folder %s" % options.wheels)
    return options


def main(arguments=None):
    options = parse(arguments)
    os.umask(0o022)
    # Ended from outside is as good as Ctrl-C: what is half made is removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    installer = Installer(options)
    try:
        return installer.uninstall() if options.uninstall else installer.install()
    except Failure as failure:
        text, code = str(failure), failure.code
    except KeyboardInterrupt:
        text, code = "interrupted; what was installed before still works. Run it again to go on.", 130
    except OSError as error:
        text, code = explain(error)
    installer.screen.clear()
    sys.stderr.write("install.py: %s\n" % text)
    return code


def explain(error):
    """An OSError that nobody expected, as (a sentence with what to do, exit code)."""
    where = "%s: %s" % (error.filename, error.strerror) if error.filename else str(error.strerror or error)
    kept = "What was installed before still works"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "%s. Free some disk space, then run this again. %s." % (where, kept), EX_IOERR
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        step = "Make it writable for you, or name another place with --prefix DIR"
        return "%s. %s. %s." % (where, step, kept), EX_NOPERM
    return "%s. %s." % (where, kept), EX_IOERR


if __name__ == "__main__":
    sys.exit(main())
