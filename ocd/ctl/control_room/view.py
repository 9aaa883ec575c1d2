"""The live view of ``occtl top`` (Textual). What stands where is ``picture``'s; this draws it and takes keys."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Protocol

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen, Screen
from textual.widgets import DataTable, Footer, Input, RichLog, Static

from ocd.ctl import screen
from ocd.ctl.control_room import picture
from ocd.errors import OcdError
from ocd.wire.messages import Exchange, Outcome, Status

#: seconds between two looks at the status, and before the next try when the daemon is away
PERIOD = 1.0
#: columns that a table's scrollbar and the blank behind its last column take
GUTTER = 3
HELP = """r  reload the configuration         l  follow the selected proxy's log
R  restart the selected proxy       e  follow the events
/  filter the requests              p  pause, go on
tab  proxies or requests            q  quit (Ctrl-C too)

first: seconds to the first token   in: tokens sent, the cache's too
live: requests that are being answered now
hop: bedrock's side of a request that main has a row for, too"""


class Source(Protocol):
    """Where the view's news come from; every call may block and may raise OcdError."""

    def status(self) -> Status: ...
    def requests(self) -> Iterator[Exchange]: ...
    def log(self, name: str) -> Iterator[str]: ...
    def events(self) -> Iterator[str]: ...
    def reload(self) -> Outcome: ...
    def restart(self, name: str) -> Outcome: ...


class Ask(ModalScreen[bool]):
    """A question that y answers."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "yes"),
        Binding("n,escape,q", "answer(False)", "no"),
    ]

    def __init__(self, question: str) -> None:
        super().__init__()
        self.question = question

    def compose(self) -> ComposeResult:
        yield Static(Text(f"{self.question}  y / n"), id="box")

    def action_answer(self, yes: bool) -> None:
        self.dismiss(yes)


class Help(ModalScreen[None]):
    """The keys."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark", "app.pop_screen", "back")]

    def compose(self) -> ComposeResult:
        yield Static(Text(HELP), id="box")


class Follow(Screen[None]):
    """Lines that come, until escape."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "app.pop_screen", "back")]

    def __init__(self, title: str, lines: Callable[[], Iterator[str]]) -> None:
        super().__init__()
        self.heading = title
        self.lines = lines
        self.over = threading.Event()

    def compose(self) -> ComposeResult:
        yield Static(Text(self.heading), id="heading")
        yield RichLog(max_lines=2000, wrap=True)
        yield Footer()

    def on_mount(self) -> None:
        threading.Thread(target=self._pump, daemon=True).start()

    def on_unmount(self) -> None:
        self.over.set()

    def _pump(self) -> None:
        try:
            for line in self.lines():
                if self.over.is_set():
                    return
                _tell(self.app, self._write, screen.plain(line))
        except OcdError as error:
            _tell(self.app, self._write, error.sentence())

    def _write(self, text: str) -> None:
        if not self.over.is_set():
            self.query_one(RichLog).write(Text(text))


class ControlRoom(App[None]):
    """``occtl top``."""

    TITLE = "occtl top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #heading { height: 1; text-style: bold; }
    #troubles { height: auto; max-height: 4; }
    #sessions { height: auto; max-height: 5; margin: 1 0 0 0; }
    #proxies { height: auto; max-height: 6; overflow-x: hidden; }
    #requests { height: 1fr; margin: 1 0 0 0; overflow-x: hidden; }
    #filter { height: 1; border: none; padding: 0; display: none; }
    #filter.shown { display: block; }
    Ask, Help { align: center middle; }
    #box { width: auto; max-width: 90%; height: auto; padding: 1 2; border: round $primary; background: $surface; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "reload", "reload"),
        Binding("R", "restart", "restart"),
        Binding("l", "logs", "logs"),
        Binding("e", "events", "events"),
        Binding("slash", "filter", "filter", key_display="/"),
        Binding("p", "pause", "pause"),
        Binding("question_mark", "help", "help", key_display="?"),
        Binding("q", "quit", "quit"),
        # As any program in a terminal; Textual alone would say that it is another key.
        Binding("ctrl+c", "quit", show=False, priority=True),
        Binding("escape", "clear", show=False),
    ]

    def __init__(self, source: Source, now: Callable[[], float] = time.time) -> None:
        super().__init__()
        self.source = source
        self.room = picture.Room()
        self.now = now
        self.over = threading.Event()

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(id="heading")
            yield DataTable(id="proxies", cursor_type="row", cell_padding=0, zebra_stripes=False)
            yield Static(id="troubles")
            yield Static(id="sessions")
            yield DataTable(id="requests", cursor_type="row", cell_padding=0)
            yield Input(placeholder="filter: model, slot, upstream, status, pid", id="filter", compact=True)
        yield Footer()

    def on_mount(self) -> None:
        self._columns()
        for work in (self._watch_status, self._watch_requests):
            threading.Thread(target=work, daemon=True).start()
        self.draw()

    def on_unmount(self) -> None:
        self.over.set()

    def on_resize(self) -> None:
        self._columns()
        self.draw()

    # ------------------------------------------------------------------------------------------------- news

    def _watch_status(self) -> None:
        while not self.over.is_set():
            try:
                status, lost = self.source.status(), ""
            except OcdError as error:
                status, lost = None, error.sentence()
            if not _tell(self, self.take_status, status, lost):
                return
            self.over.wait(PERIOD)

    def _watch_requests(self) -> None:
        latest, again = 0.0, False
        while not self.over.is_set():
            before = latest
            try:
                for exchange in self.source.requests():
                    if self.over.is_set():
                        return
                    # After a break the daemon tells again what it told before.
                    if again and exchange.time <= before:
                        continue
                    latest = max(latest, exchange.time)
                    _tell(self, self.take_request, exchange)
            except OcdError:
                pass  # the other thread says so
            again = True
            self.over.wait(PERIOD)

    def take_status(self, status: Status | None, lost: str) -> None:
        """Show another status, or why there is none (then the last one stays)."""
        if not self.room.paused or lost:
            self.room.status = status or self.room.status
        self.room.lost = lost
        self.draw(requests=False)

    def take_request(self, exchange: Exchange) -> None:
        """Show one more answered request."""
        self.room.add(exchange)
        if not self.room.paused:
            self.draw()

    # ------------------------------------------------------------------------------------------------- draw

    def _columns(self) -> None:
        for name, columns in (("#proxies", picture.PROXIES), ("#requests", picture.REQUESTS)):
            table = self.query_one(name, DataTable)
            table.clear(columns=True)
            for (label, _), width in zip(
                columns, picture.widths(columns, self.size.width - GUTTER), strict=True
            ):
                # One more for the blank between two columns.
                table.add_column(Text(label), width=width + 1, key=label or "note")

    def draw(self, requests: bool = True) -> None:
        """Put everything on the screen."""
        if not self.query("#requests"):
            return
        now = self.now()
        room = self.room
        self.query_one("#heading", Static).update(
            Text(picture.heading(room, now), no_wrap=True, overflow="ellipsis")
        )
        self._fill("#proxies", picture.proxies(room.status), picture.PROXIES)
        self.query_one("#troubles", Static).update(_block(picture.troubles(room.status)))
        self.query_one("#sessions", Static).update(_block(picture.sessions(room.status, now)))
        if requests:
            self._fill("#requests", picture.requests(room.found()), picture.REQUESTS)

    def _fill(self, name: str, rows: Sequence[picture.Line], columns: Sequence[tuple[str, int]]) -> None:
        table = self.query_one(name, DataTable)
        place = table.cursor_row
        table.clear()
        wide = picture.widths(columns, self.size.width - GUTTER)
        for row in rows:
            style = screen.STATE_STYLES.get(row.style, "")
            table.add_row(
                *(Text(picture.cut(cell, w), style) for cell, w in zip(row.cells, wide, strict=True))
            )
        if rows:
            table.move_cursor(row=min(max(place, 0), len(rows) - 1), scroll=False)

    # ------------------------------------------------------------------------------------------------- keys

    def selected(self) -> str:
        """The proxy whose row is chosen."""
        rows = picture.proxies(self.room.status)
        place = self.query_one("#proxies", DataTable).cursor_row
        return rows[min(max(place, 0), len(rows) - 1)].key if rows else "main"

    def _do(self, what: str, work: Callable[[], Outcome]) -> None:
        def run() -> None:
            try:
                outcome = work()
                said = "; ".join(f"{name}: {text}" for name, text in outcome.proxies.items())
                text = said if outcome.ok else outcome.reason or said
                _tell(self, self.say, f"{what}: {text}", outcome.ok)
            except OcdError as error:
                _tell(self, self.say, error.sentence(), False)

        self.say(f"{what} …", True)
        threading.Thread(target=run, daemon=True).start()

    def say(self, text: str, good: bool) -> None:
        """A message in a corner, for some seconds."""
        self.notify(screen.plain(text), severity="information" if good else "error", markup=False)

    def action_reload(self) -> None:
        self._do("reload", self.source.reload)

    def action_restart(self) -> None:
        name = self.selected()

        def decided(yes: bool | None) -> None:
            if yes:
                self._do(f"restart {name}", lambda: self.source.restart(name))

        self.push_screen(Ask(f"Restart {name}? Running answers are finished first."), decided)

    def action_logs(self) -> None:
        name = self.selected()
        self.push_screen(Follow(f"log of {name}", lambda: self.source.log(name)))

    def action_events(self) -> None:
        self.push_screen(Follow("events", self.source.events))

    def action_filter(self) -> None:
        found = self.query_one("#filter", Input)
        found.add_class("shown")
        found.focus()

    def action_clear(self) -> None:
        found = self.query_one("#filter", Input)
        found.value = ""
        found.remove_class("shown")
        self.query_one("#requests", DataTable).focus()

    def action_pause(self) -> None:
        self.room.paused = not self.room.paused
        self.draw()

    def action_help(self) -> None:
        self.push_screen(Help())

    def on_input_changed(self, event: Input.Changed) -> None:
        self.room.needle = event.value.strip()
        self.draw()

    def on_input_submitted(self, _event: Input.Submitted) -> None:
        self.query_one("#requests", DataTable).focus()


def _block(lines: Sequence[picture.Line]) -> Text:
    parts = [Text(line.cells[0], screen.STATE_STYLES.get(line.style, "")) for line in lines]
    return Text("\n", no_wrap=True, overflow="ellipsis").join(parts)


def _tell(app: App[Any], call: Callable[..., None], *what: Any) -> bool:
    """Call something in the view's own thread. False when the view has ended meanwhile."""
    try:
        app.call_from_thread(call, *what)
    except RuntimeError:
        return False
    return True
