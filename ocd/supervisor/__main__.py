"""The supervisor's entry: started by the keeper as ``python -m ocd.supervisor KEEPER_PID FD``."""

import faulthandler
import gc
import os
import signal
import socket
import sys


def main() -> int:
    """Run until the keeper is gone or told to end; returns the exit code."""
    keeper, fd = int(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(fd, False)
    from ocd.ipc import parent_death, title

    if not parent_death.die_with_parent(keeper, patience=0.5):
        return 69
    title.show("ocd: supervisor")
    faulthandler.enable(file=sys.stderr)
    # A terminal's Ctrl-C and hang-up are the keeper's to deal with; it says so over the link.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    from ocd.supervisor import later

    later.without_openssl()
    import asyncio

    # structlog imports rich when it finds it, for tracebacks in colour: 5 MB for something we never show.
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
    from ocd.errors import OcdError
    from ocd.supervisor.daemon import Daemon

    try:
        daemon = Daemon(keeper, socket.socket(fileno=fd))
    except OcdError as error:
        print(f"ocd: {error.sentence()}", file=sys.stderr)
        return error.exit_code
    gc.collect()
    gc.freeze()
    return asyncio.run(daemon.run())


if __name__ == "__main__":
    sys.exit(main())
