"""What install.py calls: arguments in, exit code out."""

import argparse
import os
import re
import signal
import sys
from typing import NoReturn

from ocd.errors import EX_USAGE
from ocd.installer.failure import Failure, explain
from ocd.installer.install import install
from ocd.installer.places import Places
from ocd.installer.screen import Screen, Steps
from ocd.installer.uninstall import uninstall


def main(arguments: list[str] | None = None) -> int:
    """Set up ocd, or remove it; returns the exit code (sysexits.h)."""
    options = parse(arguments)
    os.umask(0o022)
    # Ended from outside is as good as Ctrl-C: what is half made is removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    places, steps = Places(options.prefix), Steps(Screen(), options.dry_run)
    try:
        if options.uninstall:
            uninstall(places, steps, options.purge)
        else:
            install(options, places, steps)
        return 0
    except Failure as failure:
        text, code = str(failure), failure.exit_code
    except KeyboardInterrupt:
        text, code = "interrupted; what was installed before still works. Run it again to go on.", 130
    except OSError as error:
        text, code = explain(error)
    steps.screen.clear()
    sys.stderr.write(f"install.py: {text}\n")
    return code


class Parser(argparse.ArgumentParser):
    """argparse ends with 2 on wrong usage; sysexits.h and our other commands say 64."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EX_USAGE, f"{self.prog}: {message}\n")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Ends with 64 (SystemExit) on what cannot be meant."""
    parser = Parser(prog="install.py", description="Set up ocd for this user: no root, no questions.")
    # The commands obey OCD_PREFIX, so an installation without --prefix must not be half in one place.
    below = "keep everything under one folder (default: OCD_PREFIX)"
    parser.add_argument("--prefix", metavar="DIR", default=os.environ.get("OCD_PREFIX", ""), help=below)
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--no-start", dest="start", action="store_false", help="install only; start nothing")
    offline = "install from a folder of wheels, offline"
    parser.add_argument("--wheels", metavar="DIR", default="", help=offline)
    own = "use the LiteLLM of this interpreter's environment instead of installing one"
    parser.add_argument("--litellm-python", metavar="PATH", default="", help=own)
    full = "LiteLLM with all that it has for other providers and its own reports"
    parser.add_argument("--full", action="store_true", help=full)
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
            parser.error(f"--wheels: there is no folder {options.wheels}")
    return options


if __name__ == "__main__":
    sys.exit(main())
