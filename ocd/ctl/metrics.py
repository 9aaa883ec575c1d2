"""``occtl metrics``: the daemon's figures as OpenMetrics text."""

import click

from ocd.ctl import screen
from ocd.ctl.daemon import Daemon
from ocd.ctl.options import examples
from ocd.errors import EX_OK


@click.command(
    short_help="Print figures as OpenMetrics text, for Prometheus.",
    epilog=examples(
        "occtl metrics",
        "occtl metrics | grep ^ocd_proxy_up",
        "occtl metrics > ~/node_exporter/ocd.prom.new   # for node_exporter's textfile collector",
    ),
)
def metrics() -> int:
    """Print figures as OpenMetrics text: proxies, requests, tokens, durations, restarts, memory.

    Counters count from the start of the supervisor. For Prometheus to fetch them by itself, set `port` under
    `[metrics]` in ocd.toml: then http://127.0.0.1:PORT/metrics has them too.
    """
    with Daemon() as daemon:
        for line in daemon.raw_lines("/metrics"):
            screen.out(line)
    return EX_OK
