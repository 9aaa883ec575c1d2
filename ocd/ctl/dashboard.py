"""``occtl dashboard``: open the daemon's page in the browser."""

import os
import shutil
import subprocess
import sys

import click

from ocd.ctl import screen
from ocd.ctl.daemon import Daemon
from ocd.ctl.options import examples, json_option
from ocd.errors import EX_OK

#: what shows a file in the user's browser, by platform
_OPENERS = {"darwin": "open", "linux": "xdg-open"}


@click.command(
    epilog=examples(
        "occtl dashboard",
        "occtl dashboard --print",
        "ssh -L PORT:127.0.0.1:PORT host   then open what --print prints there",
    )
)
@click.option(
    "--print", "only_print", is_flag=True, help="Print a link for one use instead of opening a browser."
)
@json_option
def dashboard(only_print: bool, as_json: bool) -> int:
    """Open a page in the browser: proxies, requests, sessions, limits, cost, logs.

    The daemon serves it on a port of 127.0.0.1 for as long as somebody looks. What opens it is good once, for a minute,
    for this user alone; no request of the page leaves this machine.
    """
    from ocd.wire.messages import DashboardLink

    with Daemon() as daemon:
        link = daemon.post(DashboardLink, "/v1/dashboard", slow=False)
    url = f"http://127.0.0.1:{link.port}/open?once={link.once}"
    if as_json:
        screen.out_json({"port": link.port, "file": link.file, "url": url})
    elif only_print or not _show(link.file):
        screen.out(url)
        screen.note("It opens the page once, within a minute; keep it to yourself.")
    else:
        screen.out(
            f"Opened in your browser (port {link.port}); `occtl dashboard --print` prints a link instead."
        )
    return EX_OK


def _show(file: str) -> bool:
    """Have the desktop's browser open a file; False where there is no desktop, or nothing that does it."""
    if sys.platform != "darwin" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    program = shutil.which(_OPENERS.get(sys.platform, "xdg-open"))
    if program is None:
        return False
    try:
        # The file alone stands in the command line, which everybody on the machine can read.
        subprocess.Popen(
            [program, file],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return False
    return True
