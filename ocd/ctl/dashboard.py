"""``occtl dashboard``: serve a page about the daemon to the browser."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ocd.ctl import screen
from ocd.ctl.daemon import find_socket
from ocd.ctl.options import examples, json_option
from ocd.errors import EX_OK, EX_UNAVAILABLE, OcdError

if TYPE_CHECKING:
    from ocd.dashboard.server import Dashboard

#: what shows a file in the user's browser, by platform
_OPENERS = {"darwin": "open", "linux": "xdg-open"}
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command(
    short_help="Open a page in the browser that shows all of it, live.",
    epilog=examples(
        "occtl dashboard",
        "occtl dashboard --no-browser --port 4040   then, on your desk: ssh -L 4040:127.0.0.1:4040 HOST",
    ),
)
@click.option("--no-browser", is_flag=True, help="Only print the link; open nothing.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    metavar="N",
    help="Serve it on this port of 127.0.0.1; 0, as without it: one that is free.",
)
@json_option
def dashboard(no_browser: bool, port: int, as_json: bool) -> int:
    """Open a page in the browser: proxies, requests, sessions, limits, cost, routes, logs.

    This command serves it on a port of 127.0.0.1 until nobody has looked for half a minute, or until Ctrl-C. The link
    is good once, for a minute; no request of the page leaves this machine. With `--json` the first line is an object
    with the port and the link.
    """
    import asyncio

    find_socket()
    return asyncio.run(_serve(not no_browser, port, as_json))


async def _serve(browser: bool, port: int, as_json: bool) -> int:
    import asyncio

    from ocd.dashboard.asking import Socket
    from ocd.dashboard.server import Dashboard, Taken
    from ocd.settings.folders import Folders

    folders = Folders.find()
    served = Dashboard(Socket(find_socket), folders.state / "usage.db", Path(os.path.dirname(find_socket())))
    try:
        served.open(port)
    except Taken as error:
        raise OcdError(
            "The dashboard cannot be served",
            str(error),
            "Choose another --port, or none",
            exit_code=EX_UNAVAILABLE,
            code="dashboard-port",
        ) from None
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, served.close)
    try:
        opened = browser and _desktop() and _show(served)
        url = served.link()
        if as_json:
            screen.out(json.dumps({"port": served.port, "url": url}))
        else:
            if opened:
                screen.note("Opening it in your browser. Should nothing come up, this link opens it, too:")
            screen.out(url)
            screen.note("Good once, within a minute. Ctrl-C closes the page's port; so does nobody looking.")
        sys.stdout.flush()
        await served.wait()
    finally:
        served.close()
    if not as_json:
        screen.note(
            "Closed." if served.visited else "Closed: nobody came. `occtl dashboard` makes another link."
        )
    return EX_OK


def _desktop() -> bool:
    """Whether there is a screen that a browser could show something on."""
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _show(served: "Dashboard") -> bool:
    """Have the desktop's browser open the page; False where nothing does it."""
    program = shutil.which(_OPENERS.get(sys.platform, "xdg-open"))
    if program is None:
        return False
    try:
        # The file alone stands in the command line, which everybody on the machine can read.
        subprocess.Popen(
            [program, str(served.file())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return False
    return True
