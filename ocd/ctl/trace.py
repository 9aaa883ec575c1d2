"""``occtl trace``: whole exchanges, kept for a while because somebody asked for them."""

import json
import re
import time
from pathlib import Path
from typing import Any

import click

from ocd.ctl import screen
from ocd.ctl.daemon import Daemon, NotRunning
from ocd.ctl.options import examples, json_option
from ocd.errors import EX_NOINPUT, EX_OK, EX_UNAVAILABLE, OcdError
from ocd.stack.families import SLOTS

_SPAN = re.compile(r"(\d{1,5})(s|m|h)")
_UNITS = {"s": 1, "m": 60, "h": 3600}


class Span(click.ParamType[float]):
    """``30s``, ``10m``, ``2h``, at most a day; becomes seconds."""

    name = "span"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = _SPAN.fullmatch(str(value))
        seconds = int(found[1]) * _UNITS[found[2]] if found else 0
        if not 0 < seconds <= 86400:
            self.fail(f"{value!r} is no span: write 30s, 10m or 2h, at most 24h.", param, ctx)
        return float(seconds)


@click.group(
    short_help="Keep whole requests and answers for a while.",
    invoke_without_command=True,
    epilog=examples(
        "occtl trace",
        "occtl trace on --for 10m",
        "occtl trace list",
        "occtl trace show 1",
        "occtl trace replay 1",
        "occtl trace off",
    ),
)
@json_option
@click.pass_context
def trace(ctx: click.Context, as_json: bool) -> int:
    """Keep whole requests and answers for a while, prompts included.

    Without a verb: whether it is on, and until when. Credentials are masked before anything is written; the files are
    yours alone (state/trace), at most 200 of the latest, and none stays for longer than a day.
    """
    if ctx.invoked_subcommand is not None:
        return EX_OK
    from ocd.wire.messages import Status

    until = None
    try:
        with Daemon() as daemon:
            until = daemon.get(Status, "/v1/status").trace_until
    except NotRunning:
        pass
    kept = len(_files())
    if as_json:
        screen.out_json({"on": until is not None, "until": until, "kept": kept})
        return EX_OK
    if until is None:
        screen.out("The trace is off. `occtl trace on` turns it on.")
    else:
        screen.out(f"The trace is on until {screen.time_of_day(until)}. `occtl trace off` ends it.")
    screen.out(f"  {kept} exchanges are kept; `occtl trace list` shows them")
    return EX_OK


@trace.command(epilog=examples("occtl trace on", "occtl trace on --for 1h --slot haiku"))
@click.option(
    "--for", "seconds", type=Span(), default="10m", show_default=True, help="How long: 30s, 10m, 2h."
)
@click.option("--slot", type=click.Choice(SLOTS), help="Requests of this slot only.")
@json_option
def on(seconds: float, slot: str | None, as_json: bool) -> int:
    """Turn it on. It ends by itself, and when the daemon is restarted."""
    return _order(seconds, slot or "", as_json)


@trace.command(epilog=examples("occtl trace off"))
@json_option
def off(as_json: bool) -> int:
    """Turn it off; what is kept stays until it is a day old."""
    return _order(0, "", as_json)


@trace.command("list", epilog=examples("occtl trace list", "occtl trace list --json"))
@json_option
def list_(as_json: bool) -> int:
    """What is kept, the latest first: number 1."""
    found = [(number, _read(path)) for number, path in enumerate(_files(), 1)]
    if as_json:
        names = ("proxy", "start", "end", "method", "path", "status", "slot", "model", "upstream")
        screen.out_json([{"number": n, **{name: one.get(name) for name in names}} for n, one in found])
        return EX_OK
    if not found:
        screen.note("Nothing is kept. `occtl trace on` turns it on.")
        return EX_OK
    rows = [
        [
            str(number),
            screen.clock(one["start"]),
            str(one["proxy"]),
            f"{one['method']} {screen.plain(one['path'])}",
            str(one["status"] or "-"),
            screen.duration(one["end"] - one["start"]),
            one["slot"] or "-",
            screen.plain(one["model"]) or "-",
        ]
        for number, one in found
        if one
    ]
    screen.show_table(["N", "TIME", "PROXY", "REQUEST", "STATUS", "TOOK", "SLOT", "MODEL"], rows)
    return EX_OK


@trace.command(epilog=examples("occtl trace show 1", "occtl trace show 1 --json | jq -r .answer.text"))
@click.argument("number", metavar="N", type=click.IntRange(1))
@json_option
def show(number: int, as_json: bool) -> int:
    """One exchange as it was: request, headers, body, answer. N is its number in `occtl trace list`.

    Ends with 66 when there is no such number.
    """
    one = _number(number)
    if as_json:
        screen.out_json(one)
        return EX_OK
    query = "&".join(f"{name}={value}" for name, value in one["query"])
    target = one["path"] + (f"?{query}" if query else "")
    _message(f"> {one['method']} {target}", one["headers"], one["body"])
    screen.out()
    _message(f"< {one['status'] or 'no answer'}", one["answer_headers"], one["answer"])
    first = one["first_byte"]
    began = f"first byte after {screen.duration(first - one['start'])}, " if first else ""
    screen.note(f"{one['proxy']}: {began}end after {screen.duration(one['end'] - one['start'])}")
    return EX_OK


@trace.command(
    short_help="Send request N again, and print the answer.",
    epilog=examples("occtl trace replay 1", "occtl trace replay 1 --json | jq .status"),
)
@click.argument("number", metavar="N", type=click.IntRange(1))
@json_option
def replay(number: int, as_json: bool) -> int:
    """Send request N again, through the same proxy, and print the answer. It costs what a request costs.

    Our own key is put in anew. The login of a request that goes to Anthropic is not kept: it is taken from
    ANTHROPIC_AUTH_TOKEN, CLAUDE_CODE_OAUTH_TOKEN (`claude setup-token` makes one) or ANTHROPIC_API_KEY. Ends with 69
    when the answer is an error, or none came; with 66 when there is no such number.
    """
    import os

    from ocd.ctl import replay as again
    from ocd.settings import keys
    from ocd.settings.folders import Folders
    from ocd.wire.messages import Status

    one = _number(number)
    with Daemon() as daemon:
        proxy = daemon.get(Status, "/v1/status").proxies.get(one["proxy"])
    held = keys.load_or_create(Folders.find())
    request = again.prepare(one, held.main if one["proxy"] == "main" else held.bedrock, os.environ)
    if request.masked:
        screen.note(f"{request.masked} places of its body are masked in the file, and are sent so.")
    pieces = again.send(request, f"http://127.0.0.1:{proxy.port if proxy else 0}", one["method"])
    answer = next(pieces)
    assert isinstance(answer, again.Answer)
    told, shown = bytearray(), 0
    for piece in pieces:
        told += piece if isinstance(piece, bytes) else b""
        while not as_json and (end := told.find(b"\n", shown)) >= 0:
            screen.out(screen.plain(told[shown:end].decode("utf-8", "replace")))
            shown = end + 1
    if not as_json and shown < len(told):
        screen.out(screen.plain(told[shown:].decode("utf-8", "replace")))
    if as_json:
        screen.out_json(
            {"number": number, "status": answer.status, "kept_status": one["status"], "first_byte": answer.first,
             "seconds": answer.seconds, "headers": answer.headers, "answer": told.decode("utf-8", "replace")}
        )  # fmt: skip
    else:
        began = f", first byte after {screen.duration(answer.first)}" if answer.first is not None else ""
        was = "as before" if answer.status == one["status"] else f"before: {one['status'] or 'no answer'}"
        screen.note(f"{answer.status} ({was}){began}, end after {screen.duration(answer.seconds)}")
        if answer.status in (401, 424) and not any(map(os.environ.get, again.LOGINS)):
            screen.note(
                f"A login is not kept: what goes to Anthropic needs one of {', '.join(again.LOGINS)}."
            )
    return EX_OK if answer.status < 400 else EX_UNAVAILABLE


def _number(number: int) -> dict[str, Any]:
    """The kept exchange of that number. Raises OcdError (exit 66): there is none."""
    files = _files()
    one = _read(files[number - 1]) if number <= len(files) else {}
    if not one:
        raise OcdError(
            f"There is no exchange {number}",
            f"{len(files)} are kept",
            "Look at `occtl trace list`",
            exit_code=EX_NOINPUT,
            code="no-such-trace",
        )
    return one


def _message(first: str, headers: list[list[str]], body: dict[str, Any]) -> None:
    screen.out(screen.plain(first))
    for name, value in headers:
        screen.out(screen.plain(f"  {name}: {value}"))
    screen.out()
    for line in body["text"].splitlines():
        screen.out(screen.plain(line))
    if body["note"]:
        screen.note(body["note"])


def _order(seconds: float, slot: str, as_json: bool) -> int:
    from ocd.wire.messages import Outcome, Status, TraceRequest

    with Daemon() as daemon:
        done = daemon.post(Outcome, "/v1/trace", TraceRequest(seconds=seconds, slot=slot))
        until = daemon.get(Status, "/v1/status").trace_until
    if as_json:
        screen.out_json({"on": until is not None, "until": until, "changed": done.changed})
    elif until is None:
        screen.out("The trace is off." if done.changed else "Already so: the trace is off.")
    else:
        screen.out(f"Whole exchanges are kept until {screen.time_of_day(until)}, with their prompts.")
    return EX_OK


def _files() -> list[Path]:
    """What is kept, the latest first; what is older than a day goes."""
    from ocd.settings.folders import Folders
    from ocd.supervisor.observation.trace import AGE, PROXIES, sweep

    folder = Folders.find().state / "trace"
    sweep(folder, time.time() - AGE)
    found = [path for proxy in PROXIES for path in (folder / proxy).glob("*.json")]
    return sorted(found, key=lambda path: path.name, reverse=True)


def _read(path: Path) -> dict[str, Any]:
    """Empty for one that was removed meanwhile, or makes no sense."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("version") == 1 else {}
