"""What install.py calls: arguments in, exit code out."""

import os
import signal
import sys

from ocd.installer.arguments import parse
from ocd.installer.commands import Commands
from ocd.installer.daemon import Daemon
from ocd.installer.failure import Failure, explain
from ocd.installer.install import install
from ocd.installer.occtl import Occtl
from ocd.installer.places import Made, Places
from ocd.installer.screen import Screen, Steps
from ocd.installer.uninstall import Uninstall


def main(arguments: list[str] | None = None) -> int:
    """Set up ocd, or remove it; returns the exit code (sysexits.h)."""
    options = parse(arguments)
    os.umask(0o022)
    # Ended from outside is as good as Ctrl-C: what is half made is removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    places, screen = Places(options.prefix), Screen()
    steps = Steps(screen, options.dry_run)
    try:
        if options.uninstall:
            made, daemon = Made(places.data), Daemon(places, steps, Occtl(places, screen))
            Uninstall(places, made, steps, Commands(places, made, steps), daemon).run(options.purge)
        else:
            install(options, places, steps)
        return 0
    except Failure as failure:
        text, code = str(failure), failure.exit_code
    except KeyboardInterrupt:
        text, code = "interrupted; what was installed before still works. Run it again to go on.", 130
    except OSError as error:
        text, code = explain(error)
    screen.clear()
    sys.stderr.write(f"install.py: {text}\n")
    return code
