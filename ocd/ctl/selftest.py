"""``occtl selftest``: a private second stack with stand-in upstreams, and which credential went where."""

from typing import Any

import click

from ocd.ctl import screen
from ocd.ctl.options import json_option
from ocd.errors import EX_OK

EX_FAILED = 1

_STYLES = {"ok": "green", "FAILED": "bold red", "failed": "bold red"}


@click.command()
@json_option
def selftest(as_json: bool) -> int:
    """Show which slot reaches which upstream with which credential. Needs no account and no running daemon.

    Boots a private second stack from your own two LiteLLM files, with stand-ins for Anthropic and Bedrock,
    and sends requests for every slot and model group, streaming and plain, with made-up credentials. Then
    those are looked for in traffic, files, logs and processes. It runs beside a live daemon without touching
    it. Ends with 1 when a request fails or a credential is seen outside its place.
    """
    import asyncio

    from ocd.selftest.run import run
    from ocd.settings.folders import Folders
    from ocd.settings.load import load

    folders = Folders.find()
    settings = load(folders)
    with screen.progress("Starting a private stack…") as progress:
        report = asyncio.run(run(folders, settings, progress=lambda text: progress.say(f"{text}…")))
    if as_json:
        screen.out_json(report.as_dict())
    else:
        _print(report.as_dict())
    return EX_OK if report.ok else EX_FAILED


def _print(report: dict[str, Any]) -> None:
    """The rows as a table, then one sentence with the verdict."""
    rows = report.get("rows", [])
    if rows:
        names = [name for name in rows[0] if not isinstance(rows[0][name], dict | list)]
        cells = [[_cell(row.get(name)) for name in names] for row in rows]
        styles = [[_STYLES.get(cell, "") for cell in line] for line in cells]
        screen.show_table([name.replace("_", " ") for name in names], cells, styles)
        screen.out()
    for reason in report.get("problems", []):
        screen.sentence(screen.plain(str(reason)))
    screen.sentence(
        "All as it must be: the canary was seen at Anthropic and nowhere else."
        if report.get("ok")
        else "Not as it must be: the rows above say where."
    )


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "ok" if value else "FAILED"
    return "-" if value in (None, "") else screen.plain(str(value))
