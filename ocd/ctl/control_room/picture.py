"""What ``occtl top`` shows, as rows of text: no terminal, no daemon, no clock of its own."""

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len, set_cell_size

from ocd.core.limits import percent
from ocd.ctl import screen
from ocd.paths import ORDINARY
from ocd.wire.messages import Exchange, ProxyStatus, Status

#: columns of the requests and their widths at 80 columns; what is left goes to the last one
REQUESTS = (
    ("time", 8),
    ("slot", 6),
    ("model", 15),
    ("upstream", 12),
    ("first", 6),
    ("total", 6),
    ("in", 5),
    ("out", 5),
    ("", 0),
)
PROXIES = (
    ("proxy", 8),
    ("state", 10),
    ("port", 5),
    ("gen", 4),
    ("pid", 8),
    ("mem", 8),
    ("restarts", 8),
    ("spare", 6),
    ("live", 4),
    ("", 0),
)
_BEDROCK = re.compile(r"bedrock(?:-runtime)?\.([a-z0-9-]+)\.amazonaws\.com")


@dataclass(frozen=True)
class Line:
    """One row: cells as text, and a style's name (a key of ``screen.STATE_STYLES`` or "") for the whole."""

    cells: tuple[str, ...]
    style: str = ""
    key: str = ""


@dataclass
class Room:
    """Everything that is on the screen. ``lost`` says why there is no news; ``needle`` filters the requests."""

    status: Status | None = None
    requests: list[Exchange] = field(default_factory=list)
    lost: str = ""
    needle: str = ""
    paused: bool = False

    def add(self, exchange: Exchange, most: int = 500) -> None:
        """Take one answered request; the oldest go."""
        self.requests.append(exchange)
        del self.requests[:-most]

    def found(self) -> list[Exchange]:
        """The requests that the filter lets through, the latest first."""
        return [one for one in reversed(self.requests) if matches(one, self.needle)]


def matches(exchange: Exchange, needle: str) -> bool:
    """Whether any word that is shown of the request holds ``needle``, in any case."""
    if not needle:
        return True
    words = (
        exchange.proxy,
        exchange.slot,
        exchange.model,
        exchange.upstream,
        exchange.answered_by,
        str(exchange.status),
        exchange.trouble,
        exchange.fallback,
        str(exchange.session or ""),
    )
    return any(needle.lower() in word.lower() for word in words)


def heading(room: Room, now: float) -> str:
    """The first line."""
    if room.status is None:
        return f"ocd: {room.lost or 'asking the daemon'}"
    status = room.status
    parts = [f"ocd {status.version}", f"up {screen.duration(now - status.since)}"]
    if status.litellm:
        parts.append(f"LiteLLM {status.litellm} ({status.mode})")
    parts.append(f"{len(status.sessions)} session{'' if len(status.sessions) == 1 else 's'}")
    parts += limits(status, now)
    if status.trace_until:
        parts.append(f"tracing until {screen.time_of_day(status.trace_until)}")
    if status.external:
        parts.append(f"external {status.external}")
    if room.paused:
        parts.append("PAUSED")
    if room.lost:
        parts.append(room.lost)
    return "  ".join(screen.plain(part) for part in parts)


def limits(status: Status, now: float) -> list[str]:
    """Each login's binding window: ``plan 5h 42 %, resets in 1h 20m``."""
    found = []
    for login in status.limits:
        for window in login.windows:
            if window.name == login.binding:
                again = f", resets in {screen.duration(window.reset - now)}" if window.reset else ""
                spill = ", spilling to AWS" if login.spilling else ""
                who = "plan"
                if len(status.limits) > 1 and login.accounts:
                    who = f"plan {', '.join(login.accounts)}"
                found.append(f"{who} {window.name} {percent(window.used)}{again}{spill}")
    return found


def proxies(status: Status | None) -> list[Line]:
    """A row for each proxy."""
    if status is None:
        return []
    return [_proxy(name, one) for name, one in status.proxies.items()]


def _proxy(name: str, one: ProxyStatus) -> Line:
    live = sum(m.in_flight or 0 for m in one.members)
    draining = sum(m.role == "draining" for m in one.members)
    note = one.reason if not one.state.well else one.rejected and f"rejected: {one.rejected}"
    cells = (
        name,
        one.state,
        str(one.port),
        str(one.generation),
        str(one.pid or "-"),
        screen.size(one.memory),
        str(one.restarts),
        one.spare,
        str(live),
        note or (f"{draining} draining" if draining else ""),
    )
    return Line(tuple(screen.plain(cell) for cell in cells), one.state, name)


def troubles(status: Status | None) -> list[Line]:
    """What somebody should look at: the daemon's problems, the upstreams', fallbacks."""
    if status is None:
        return []
    found = [Line((f"{p.what}. {p.next}".strip(),), "failed") for p in status.problems]
    for name, one in status.proxies.items():
        for trouble in one.troubles:
            who = trouble.slot or trouble.model
            found.append(
                Line((f"{name}, {who}: {trouble.what} ({trouble.count} times). {trouble.next}",), "starting")
            )
        if one.last_fallback:
            moment = screen.clock(one.last_fallback_at) if one.last_fallback_at else ""
            found.append(
                Line((f"{name}: {one.fallbacks} fallbacks, last {moment} {one.last_fallback}",), "starting")
            )
    return [Line((screen.plain(line.cells[0]),), line.style) for line in found]


def sessions(status: Status | None, now: float) -> list[Line]:
    """A row for each living session, the latest first."""
    if status is None:
        return []
    rows = []
    for one in sorted(status.sessions, key=lambda session: -session.since):
        folder = screen.plain(screen.home(one.cwd))
        if one.account not in ("", ORDINARY):
            folder += f" ({screen.plain(one.account)})"
        text = f"{one.pid:>8}  {screen.duration(now - one.since):>8}  {one.requests:>5} requests"
        text += f"  {one.last_slot or '-':8}"
        rows.append(Line((f"{screen.plain(text)}  {folder}",), "", str(one.pid)))
    return rows


def requests(found: Iterable[Exchange]) -> list[Line]:
    """A row for each answered request."""
    return [_request(one) for one in found]


def _request(one: Exchange) -> Line:
    if one.trouble:
        note, style = f"{one.status} {one.trouble}", "failed"
    elif one.fallback:
        note, style = f"fallback: {one.fallback}", "starting"
    else:
        note, style = str(one.status), ""
    if one.hop:
        note, style = f"{note} (hop)", style or "stopped"
    cells = (
        screen.clock(one.time),
        one.slot or "-",
        one.model or "-",
        upstream(one.upstream),
        seconds(one.first),
        seconds(one.seconds),
        count(one.input_tokens + one.cache_read_tokens + one.cache_write_tokens),
        count(one.output_tokens),
        note,
    )
    return Line(tuple(screen.plain(cell) for cell in cells), style)


def upstream(host: str) -> str:
    """A host in a few letters: ``anthropic``, ``eu-west-1`` (Bedrock there)."""
    if host == "api.anthropic.com":
        return "anthropic"
    found = _BEDROCK.search(host)
    return found[1] if found else host or "-"


def seconds(value: float | None) -> str:
    """``0.42s``, ``12.3s``, ``2m 05s``."""
    if value is None:
        return "-"
    if value < 10:
        return f"{value:.2f}s"
    return f"{value:.1f}s" if value < 100 else screen.duration(value)


def count(value: int) -> str:
    """``842``, ``4.2k``, ``120k``, ``1.3M``."""
    if value < 1000:
        return str(value)
    for unit, size in (("k", 1e3), ("M", 1e6), ("G", 1e9)):
        if value < size * 1000:
            return f"{value / size:.1f}{unit}" if value < size * 10 else f"{value / size:.0f}{unit}"
    return "many"


def widths(columns: Sequence[tuple[str, int]], room: int) -> list[int]:
    """How wide each column is when ``room`` columns are there in all; the last one gets what is left."""
    fixed = sum(width + 1 for _name, width in columns if width)
    return [width or max(4, room - fixed) for _name, width in columns]


def cut(text: str, width: int) -> str:
    """``text`` in at most ``width`` columns, with a dot-dot-dot where something is missing."""
    text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    return text if cell_len(text) <= width else set_cell_size(text, max(0, width - 1)).rstrip() + "…"


def lines(columns: Sequence[tuple[str, int]], rows: Sequence[Line], room: int) -> list[str]:
    """Rows under their heading, in plain text."""
    wide = widths(columns, room)
    head = " ".join(f"{name:{width}}" for (name, _), width in zip(columns, wide, strict=True)).rstrip()
    body = [
        " ".join(set_cell_size(cut(cell, w), w) for cell, w in zip(row.cells, wide, strict=True)).rstrip()
        for row in rows
    ]
    return [head, *body]


def frame(room: Room, now: float | None = None, width: int = 80, height: int = 24) -> str:
    """Everything as text of ``width`` columns and at most ``height`` lines (0: all), for ``--once``."""
    now = time.time() if now is None else now
    shown = [cut(heading(room, now), width), "", *lines(PROXIES, proxies(room.status), width)]
    shown += [cut(f"! {line.cells[0]}", width) for line in troubles(room.status)]
    living = sessions(room.status, now)
    if living:
        shown += ["", *(cut(line.cells[0], width) for line in living)]
    shown += ["", *lines(REQUESTS, requests(room.found()), width)]
    if not room.requests:
        shown.append("No request was answered yet.")
    return "\n".join(shown[:height] if height else shown)
