"""A stand-in for launchd: runs agents by the rules of launchd.plist(5) and launchctl(1), seconds scaled.

Started as a process of its own (``Standin``), so that whatever a test does to its own Python is not done to it. Its
``launchctl`` is a program in ``FOLDER/bin``. What a rule is taken from stands beside it; what launchd has and ocd's
plist does not use is refused rather than ignored, so that a new key cannot pass untested.
"""

from __future__ import annotations

import contextlib
import json
import os
import plistlib
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

#: keys that this stand-in acts on, or that mean nothing outside macOS
KNOWN = {
    *("Label", "ProgramArguments", "RunAtLoad", "KeepAlive", "ThrottleInterval", "ExitTimeOut"),
    *("AbandonProcessGroup", "Sockets", "EnvironmentVariables", "Umask"),
    *("SoftResourceLimits", "HardResourceLimits", "ProcessType", "LimitLoadToSessionType"),
}
#: "a signal which is typically associated with a crash (SIGILL, SIGSEGV, etc.)" (KeepAlive, Crashed)
CRASHES = {
    signal.SIGILL,
    signal.SIGTRAP,
    signal.SIGABRT,
    signal.SIGFPE,
    signal.SIGBUS,
    signal.SIGSEGV,
    signal.SIGSYS,
}
LIMITS = {"Core": resource.RLIMIT_CORE, "NumberOfFiles": resource.RLIMIT_NOFILE}
#: what a job gets besides the plist's EnvironmentVariables
PATH = "/usr/bin:/bin:/usr/sbin:/sbin"
#: the descriptors of ``Sockets``, which launch_activate_socket hands out on a Mac
FDS = "STANDIN_SOCKETS"
TICK = 0.005

CLIENT = """#!{python} -IS
import json, socket, sys
with socket.socket(socket.AF_UNIX) as link:
    link.connect({address!r})
    link.sendall(json.dumps(sys.argv[1:]).encode())
    link.shutdown(socket.SHUT_WR)
    with link.makefile() as answer:
        code, out, err = json.load(answer)
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(code)
"""


class Job:
    """One loaded agent."""

    def __init__(self, plist: dict[str, Any], path: str, domain: str, scale: float) -> None:
        self.plist, self.path, self.domain, self.scale = plist, path, domain, scale
        self.process: subprocess.Popen[bytes] | None = None
        self.runs = 0
        self.last: int | None = None
        self.spawned = -1e9
        self.kill_at = 0.0
        #: wanted: a reason to run (RunAtLoad, KeepAlive, a connection); leaving: unloaded when it has ended
        self.wanted = self.leaving = self.again = False
        self.sockets: dict[str, socket.socket] = {}
        for name, what in plist.get("Sockets", {}).items():
            server = socket.socket(socket.AF_UNIX)
            # launchd makes the file and not its folder, and does not say so.
            with contextlib.suppress(OSError):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(what["SockPathName"])
                server.bind(what["SockPathName"])
                os.chmod(what["SockPathName"], what.get("SockPathMode", 0o666))
                server.listen(128)
                self.sockets[name] = server
                continue
            server.close()
        keep = plist.get("KeepAlive", False)
        # SuccessfulExit "implies that RunAtLoad is set to true".
        self.wanted = bool(
            plist.get("RunAtLoad") or keep is True or (isinstance(keep, dict) and "SuccessfulExit" in keep)
        )

    @property
    def target(self) -> str:
        return f"{self.domain}/{self.plist['Label']}"

    def state(self) -> str:
        if self.process is not None:
            return "running"
        return "spawn scheduled" if self.wanted else "waiting" if self.sockets else "not running"

    def spawn(self, now: float) -> None:
        # Everything but the plist's variables is launchd's own: nothing of the shell that loaded it.
        environment = {"HOME": os.environ["HOME"], "USER": "ada", "PATH": PATH, "TMPDIR": "/tmp"}
        environment["XPC_SERVICE_NAME"] = self.plist["Label"]
        environment |= self.plist.get("EnvironmentVariables", {})
        fds = {name: one.fileno() for name, one in self.sockets.items()}
        environment[FDS] = json.dumps(fds)
        soft, hard = (self.plist.get(f"{kind}ResourceLimits", {}) for kind in ("Soft", "Hard"))

        def limit() -> None:
            os.umask(self.plist.get("Umask", 0o022))
            for name, number in LIMITS.items():
                now_soft, now_hard = resource.getrlimit(number)
                high = hard.get(name, now_hard)
                low = soft.get(name, now_soft)
                resource.setrlimit(number, (low if high < 0 else min(low, high), high))

        self.wanted = False
        self.runs += 1
        self.spawned = now
        try:
            self.process = subprocess.Popen(
                self.plist["ProgramArguments"],
                env=environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=list(fds.values()),
                start_new_session=True,
                preexec_fn=limit,
            )
        except OSError:
            self.last = 78  # EX_CONFIG is what `launchctl print` shows for a program that is not there
            self.after()

    def after(self) -> None:
        """The process has ended: do its exit and KeepAlive ask for another? The dictionary's keys are ORed."""
        keep = self.plist.get("KeepAlive", False)
        code = self.last or 0
        reasons = [keep is True]
        if isinstance(keep, dict):
            if "SuccessfulExit" in keep:
                reasons.append((code == 0) is keep["SuccessfulExit"])
            if "Crashed" in keep:
                reasons.append((-code in CRASHES) is keep["Crashed"])
        self.wanted = self.again or any(reasons)
        if self.again:
            self.spawned = -1e9
        self.again = False

    def end(self, now: float) -> None:
        """SIGTERM, and SIGKILL after ExitTimeOut seconds (20 where the key is missing, 0 is never)."""
        if self.process is not None and not self.kill_at:
            self.process.terminate()
            seconds = self.plist.get("ExitTimeOut", 20)
            self.kill_at = now + seconds * self.scale if seconds else float("inf")

    def step(self, now: float) -> bool:
        """Do what there is to do; False when it is unloaded and gone."""
        if self.process is not None:
            code = self.process.poll()
            if code is None:
                if self.kill_at and now >= self.kill_at:
                    self.process.kill()
                return True
            if not self.plist.get("AbandonProcessGroup", False):
                # "When a job dies, launchd kills any remaining processes with the same process group ID".
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGKILL)
            self.process, self.last, self.kill_at = None, code, 0.0
            if not self.leaving:
                self.after()
        if self.leaving:
            for one in self.sockets.values():
                one.close()
            return False
        if not self.wanted and self.sockets:
            self.wanted = bool(select.select(list(self.sockets.values()), [], [], 0)[0])
        throttle = self.plist.get("ThrottleInterval", 10) * self.scale
        if self.wanted and now >= self.spawned + throttle:
            self.spawn(now)
        return True

    def text(self) -> str:
        """As `launchctl print` has it, shortened."""
        last = "(never exited)" if self.last is None else str(self.last)
        pid = f"\tpid = {self.process.pid}\n" if self.process else ""
        return (
            f"{self.target} = {{\n\tactive count = {int(self.process is not None)}\n\tpath = {self.path}\n"
            f"\ttype = LaunchAgent\n\tstate = {self.state()}\n\n\tminimum runtime = "
            f"{self.plist.get('ThrottleInterval', 10)}\n\texit timeout = {self.plist.get('ExitTimeOut', 20)}\n"
            f"\truns = {self.runs}\n{pid}\tlast exit code = {last}\n\n\tsockets = {{\n"
            + "".join(f'\t\t"{name}" = {{\n\t\t\tstate = active\n\t\t}}\n' for name in self.sockets)
            + "\t}\n}\n"
        )


class Server:
    """Answers launchctl, one request at a time, and looks after the jobs in between."""

    def __init__(self, folder: Path, scale: float) -> None:
        self.scale = scale
        self.jobs: dict[str, Job] = {}
        self.disabled: set[str] = set()
        self.domains = {f"gui/{os.getuid()}", f"user/{os.getuid()}"}
        self.ended = False
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(folder / "launchd.sock"))
        self.listener.listen(16)

    def run(self) -> None:
        while not self.ended or self.jobs:
            if select.select([self.listener], [], [], TICK)[0]:
                link, _ = self.listener.accept()
                with link, link.makefile("rw") as file:
                    try:
                        answer = self.answer(*json.load(file))
                    except Exception as error:
                        answer = (64, "", f"stand-in: {type(error).__name__}: {error}\n")
                    with contextlib.suppress(OSError):
                        link.sendall(json.dumps(answer).encode())
            now = time.monotonic()
            if self.ended:
                for job in self.jobs.values():
                    job.leaving = True
                    job.end(now)
            for target, job in list(self.jobs.items()):
                if not job.step(now):
                    del self.jobs[target]

    def answer(self, verb: str, *words: str) -> tuple[int, str, str]:
        now = time.monotonic()
        if verb == "bootstrap":
            return self.bootstrap(*words)
        if verb == "logout":  # no verb of launchctl's: what happens when the user logs out
            for job in self.jobs.values():
                job.leaving = True
                job.end(now)
            return 0, "", ""
        if verb == "kill":
            words = (words[1], words[0])
        restart = verb == "kickstart" and "-k" in words
        target = next(word for word in words if not word.startswith("-"))
        if verb in ("enable", "disable"):
            (self.disabled.discard if verb == "enable" else self.disabled.add)(target)
            return 0, "", ""
        if verb == "print" and target.count("/") == 1:
            if target in self.domains:
                return 0, f"{target} = {{\n\ttype = user\n}}\n", ""
            return 113, "", "Could not print domain: 125: Domain does not support specified action\n"
        job = self.jobs.get(target)
        if job is None:
            if verb == "bootout":
                return 3, "", "Boot-out failed: 3: No such process\n"
            return 113, "", f'Could not find service "{target.split("/")[-1]}" in domain for {target}\n'
        if verb == "print":
            return 0, job.text(), ""
        if verb == "bootout":
            job.leaving = True
            job.end(now)
            # Asynchronous: it returns before the process has ended.
            return (
                (36, "", "Boot-out failed: 36: Operation now in progress\n") if job.process else (0, "", "")
            )
        if job.leaving:
            return 37, "", f"Could not {verb} service: 37: Operation already in progress\n"
        if verb == "kickstart":
            # "run the specified service immediately, regardless of its configured launch conditions"; one that runs is
            # left alone but with -k. The plist is not read again.
            if job.process is None:
                job.wanted, job.spawned = True, -1e9
            elif restart:
                job.again = True
                job.end(now)
            return 0, "", ""
        if verb == "kill":
            if job.process is None:
                return 3, "", "Could not kill service: 3: No process to signal.\n"
            job.process.send_signal(signal.Signals[words[1]])
            return 0, "", ""
        return 64, "", f"Unrecognized subcommand: {verb}\n"

    def bootstrap(self, domain: str, path: str) -> tuple[int, str, str]:
        plist = plistlib.loads(Path(path).read_bytes())
        if unknown := sorted(set(plist) - KNOWN):
            return 64, "", f"stand-in: it does not know {', '.join(unknown)}\n"
        target = f"{domain}/{plist['Label']}"
        if domain not in self.domains:
            return 125, "", "Bootstrap failed: 125: Domain does not support specified action\n"
        if target in self.disabled:
            return 119, "", "Bootstrap failed: 119: Service is disabled\n"
        if target in self.jobs:
            if self.jobs[target].leaving:
                return 5, "", "Bootstrap failed: 5: Input/output error\n"
            return 37, "", "Bootstrap failed: 37: Operation already in progress\n"
        self.jobs[target] = Job(plist, path, domain, self.scale)
        return 0, "", ""


class Standin:
    """The stand-in for a test: ``with Standin(home, scale) as mac``, and ``mac.bin`` first on PATH.

    ``home`` is the HOME that jobs get; ``scale`` is how many of our seconds one of the plist's lasts.
    """

    def __init__(self, home: Path, scale: float) -> None:
        self.home, self.scale = home, scale

    def __enter__(self) -> Standin:
        # Not below pytest's folders: the name of a socket has room for a hundred letters.
        self._folder = tempfile.TemporaryDirectory(prefix="ocdm", dir="/tmp")
        folder = Path(self._folder.name)
        self.bin = folder / "bin"
        self.bin.mkdir()
        program = self.bin / "launchctl"
        program.write_text(CLIENT.format(python=sys.executable, address=str(folder / "launchd.sock")))
        program.chmod(0o755)
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(folder), str(self.scale)],
            env={"HOME": str(self.home), "PATH": os.defpath},
            cwd="/",
            stdin=subprocess.DEVNULL,
        )
        self.wait(lambda: (folder / "launchd.sock").exists())
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            code = self._process.wait(20)
        finally:
            self._process.kill()
            self._process.wait()
            self._folder.cleanup()
        assert code == 0, f"the stand-in for launchd ended with {code}"

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.bin / "launchctl"), *words], capture_output=True, text=True, timeout=20
        )

    def fields(self, target: str) -> dict[str, str]:
        """What `launchctl print` says of a service: its own lines, not those of what is inside it."""
        return dict(re.findall(r"^\t([a-z ]+) = ([^{\n]+)$", self(*("print", target)).stdout, re.MULTILINE))

    def wait(self, holds: Any, seconds: float = 20.0) -> None:
        until = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < until, f"not so within {seconds:g} s"
            time.sleep(TICK)


def main() -> None:
    server = Server(Path(sys.argv[1]), float(sys.argv[2]))

    def end(*_: object) -> None:
        server.ended = True
        server.scale = 0.0
        for job in server.jobs.values():
            if job.process is not None:
                job.process.kill()

    signal.signal(signal.SIGTERM, end)
    server.run()


if __name__ == "__main__":
    main()
