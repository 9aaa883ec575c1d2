"""``occtl wait``: for scripts that need a proxy in some state before they go on."""

import time

import click

from ocd.ctl import lifecycle, screen
from ocd.ctl.daemon import Daemon, NotRunning
from ocd.ctl.options import STATES, examples, json_option, proxy_argument
from ocd.errors import EX_TEMPFAIL, OcdError


@click.command(
    epilog=examples("occtl wait --for ready --timeout 60 && make demo", "occtl wait bedrock --for stopped")
)
@proxy_argument
@json_option
@click.option(
    "--for", "wanted", type=click.Choice(STATES), default="ready", show_default=True, help="The state."
)
@click.option("--timeout", type=click.FloatRange(min=0), default=60.0, show_default=True, help="Seconds.")
def wait(name: str | None, as_json: bool, wanted: str, timeout: float) -> int:
    """Wait until a proxy, or each of them, is in a state. Ends with 75 when it takes longer than the timeout.

    A daemon that is not running yet is waited for; without one, every proxy counts as stopped.
    """
    from ocd.wire.messages import Outcome, Status

    deadline = time.monotonic() + timeout
    total = Outcome(ok=True, proxies={})
    with screen.progress(f"Waiting for {wanted}…"):
        while True:
            try:
                with Daemon() as daemon:
                    for one in lifecycle.select(daemon.get(Status, "/v1/status"), name):
                        left = max(0.0, deadline - time.monotonic())
                        path = f"/v1/proxies/{one}/wait"
                        query = {"for": wanted, "timeout": f"{left:.3f}"}
                        outcome = daemon.get(Outcome, path, slow=True, **query)
                        total.proxies[one] = outcome.proxies.get(one) or (wanted if outcome.ok else "not yet")
                        total.ok = total.ok and outcome.ok
                        total.reason = total.reason or outcome.reason
                        total.problems += outcome.problems
                break
            except NotRunning as missing:
                if name is not None:
                    lifecycle.known(name)
                if wanted == "stopped":
                    total = Outcome(ok=True, reason=missing.what, proxies={name: "stopped"} if name else {})
                    break
                if time.monotonic() >= deadline:
                    total = Outcome(ok=False, reason=missing.what, proxies={})
                    break
                lifecycle._pause(lifecycle._LOOK)
    error = None
    if not total.ok:
        error = OcdError(
            f"{name} is not {wanted}" if name else f"Not every proxy is {wanted}",
            f"{total.reason.rstrip('.') or 'the state did not come'} (waited {timeout:g} s)",
            "Run `occtl status`",
            exit_code=EX_TEMPFAIL,
            code="timeout",
        )
    return lifecycle.report(total, as_json, error)
