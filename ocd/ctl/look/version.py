"""``occtl version``: of this command, of the daemon, of LiteLLM, and what to do when they differ."""

from ocd import API_VERSION, __version__
from ocd.ctl import screen
from ocd.ctl.daemon import CURE, Daemon, NotRunning, differs
from ocd.errors import EX_OK


def run(as_json: bool) -> int:
    """The verb itself; returns the exit code."""
    try:
        with Daemon() as daemon:
            running = daemon.record("Version", "/v1/version")
    except NotRunning:
        running = None
    remark = ""
    if running:
        remark = differs(running.version)
        if running.api != API_VERSION:
            remark = f"The daemon speaks API {running.api}, this command API {API_VERSION}. {CURE}."
    if as_json:
        screen.out_json(
            {
                "client": __version__,
                "api": API_VERSION,
                "daemon": running.version if running else None,
                "daemon_api": running.api if running else None,
                "pid": running.pid if running else None,
                "litellm": (running.litellm or None) if running else None,
                "differ": bool(remark),
                "next": CURE if remark else "",
            }
        )
        return EX_OK
    screen.out(f"occtl    {__version__}")
    screen.out(f"ocd      {screen.plain(running.version) if running else 'not running'}")
    unknown = "unknown" if running else "unknown while ocd is not running"
    screen.out(f"LiteLLM  {screen.plain(running.litellm if running else '') or unknown}")
    if remark:
        screen.note(screen.plain(remark))
    return EX_OK
