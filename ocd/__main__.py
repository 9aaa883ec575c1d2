"""``ocd``: the daemon's entry. Standard library only: this process becomes the keeper and stays small.

    ocd                run in the foreground; Ctrl-C drains and ends everything
    ocd --detach       run in the background, in a session of its own
    ocd serve --team …  a team's server, another process altogether (ocd/team)
    ocd --version

Exit codes: 0 stopped, 69 the daemon could not start, 75 another one runs, 78 a mistake in ocd.toml.
"""

import contextlib
import os
import sys

from ocd import __version__, paths
from ocd.errors import EX_USAGE, OcdError

USAGE = """usage: ocd [--detach] [--version] [--help]
       ocd serve --team …

The ocd daemon: keeps both LiteLLM proxies up. In a terminal it runs in the foreground with readable logs;
Ctrl-C (SIGINT) or SIGTERM drains and ends everything, a second one ends it at once; SIGHUP reloads the
configuration. A terminal that closes ends it like SIGTERM, unless it was started with nohup or --detach.

  --detach     run in the background, in a session of its own
  --version    print the version
  --help       print this text

ocd serve --team is something else: the bedrock proxy for a team, see ocd serve --help and docs/team.md.
Usually the service manager runs it: systemctl --user enable --now ocd, or occtl start.
See occtl --help for the control command and ocd.toml for the settings (occtl config path).
"""


def main() -> int:
    """Run the keeper; returns the exit code."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["serve"]:
        from ocd.team import serve

        return serve.run(arguments[1:])
    resume = -1
    lock_fd = -1
    detach = False
    for argument in arguments:
        if argument in ("--help", "-h"):
            print(USAGE, end="")
            return 0
        if argument == "--version":
            print(f"ocd {__version__}")
            return 0
        if argument == "--check":
            return _check()
        if argument == "--detach":
            detach = True
        elif argument.startswith("--resume="):
            resume = int(argument.partition("=")[2])
        elif argument.startswith("--lock="):
            lock_fd = int(argument.partition("=")[2])
        else:
            print(f"ocd: unknown argument {argument!r}. Try ocd --help.", file=sys.stderr)
            return EX_USAGE
    from ocd.keeper import launchd

    try:
        code = _run(detach, resume, lock_fd)
    except OcdError as error:
        print(f"ocd: {error.sentence()}", file=sys.stderr)
        code = error.exit_code
        from ocd.keeper import notify

        if code in launchd.USELESS:
            notify.turn_away()
    return launchd.exit_code(code, os.environ)


def _check() -> int:
    """Load all that keeper and supervisor consist of, and change nothing: a re-exec asks before it happens."""
    import importlib

    for name in ("ocd.keeper.main", "ocd.keeper.lock", "ocd.supervisor.daemon", "ocd.supervisor.api.control"):
        importlib.import_module(name)
    print(f"ocd {__version__}")
    return 0


def _run(detach: bool, resume: int, lock_fd: int) -> int:
    import faulthandler

    from ocd.ipc import parent_death
    from ocd.keeper import folders, limits, lock, notify
    from ocd.keeper.main import Keeper

    limits.no_core_files()
    limits.raise_descriptors()
    folders.refuse_open(folders.package_root())
    state = folders.prepare()
    os.umask(0o077)
    if detach and resume < 0:
        _detach(os.path.join(state, "logs"))
    # Where we crash, the log has the stack, and no file the memory.
    faulthandler.enable(file=2)
    lock_path = os.path.join(state, "lock")
    held = lock.take(lock_path, lock_fd)
    lock.write(held)
    parent_death.become_subreaper()
    argv = paths.program("ocd.supervisor")
    environment = {**os.environ, "PYTHONPATH": folders.package_root(), "MALLOC_ARENA_MAX": "1"}
    for name in (
        "NOTIFY_SOCKET",
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_FDNAMES",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
    ):
        environment.pop(name, None)
    if notify.watchdog_seconds():
        # Its heartbeat, which we pass on, has to be faster than that.
        environment["WATCHDOG_USEC"] = os.environ["WATCHDOG_USEC"]
    keeper = Keeper(argv, environment, held, lock_path)
    if resume >= 0:
        keeper.resume(resume)
    return keeper.run()


def _detach(logs: str) -> None:
    """Leave the terminal: fork, new session, no input, what we say into a file. Only the child returns."""
    if os.fork():
        os._exit(0)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    said = null
    # A few lines in a life; each start begins a new file. Without one we are silent.
    with contextlib.suppress(OSError):
        os.makedirs(logs, mode=0o700, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        said = os.open(os.path.join(logs, "keeper.log"), flags, 0o600)
    for fd, number in ((null, 0), (null, 1), (said, 2)):
        os.dup2(fd, number)
    for fd in {null, said}:
        os.close(fd)


if __name__ == "__main__":
    sys.exit(main())
