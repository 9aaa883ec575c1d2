"""Usage: what the requests of an hour came to, added up in memory and written down now and then.

Writing is ``ocd/adapters/usage_file.py``'s, in a short process of its own. Whatever the disk does, requests are
answered: figures that cannot be written stay in memory (bounded) and are tried again.
"""

import asyncio
import json
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ocd.adapters import usage_file
from ocd.supervisor.observation.places import Places
from ocd.wire.messages import Exchange

#: seconds from the first figure that is not written yet until it is
WRITE_AFTER = 20.0
#: seconds until a failed write is tried again
AGAIN_AFTER = 60.0
#: seconds that one write may take
WRITE_TIMEOUT = 30.0
#: sums kept in memory, of which the last are for what is not told apart any more; more only without a disk for long
KEPT_SUMS = 2000
KEPT_DETAILS = 1500
#: what follows the last part of a path that is no use of a model
_NO_USE = ("/count_tokens", "/models")

#: hour, model, slot, provider, folder, branch (None: not known yet), session, agent
Detail = tuple[int, str, str, str, str, str | None, str, str]
#: day, model, slot: where no details are kept
Day = tuple[str, str, str]


class Usage:
    """``label`` bounds the names of model groups; ``trouble`` is told when writing fails, with an empty text when
    it works again; ``moved`` when a broken file was put aside. ``keep`` says what is kept now ([usage] keep),
    ``places`` where sessions work. ``before`` is called before figures go to the disk: what a successor has to know of
    them goes first, or it would be told of them once more and count them twice."""

    def __init__(
        self,
        path: Path,
        label: Callable[[Exchange], str],
        trouble: Callable[[str], None],
        moved: Callable[[str], None],
        keep: Callable[[], str] = lambda: "details",
        places: Places | None = None,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        self.path = path
        self.label = label
        self.trouble = trouble
        self.moved = moved
        self.keep = keep
        self.before = before
        self.places = places or Places(lambda pid: "")
        self.places.found = self.on_place
        #: sums that nobody has tried to write, and the number that they will be written under: a successor that
        #: knows them from the notes may write them once more, and must not count them twice
        self.pending: dict[Detail | Day, list[float]] = {}
        self.number = ""
        #: what is being written, or was and may not have been
        self.hand: list[tuple[str, list[list[Any]]]] = []
        self.failed = ""
        self._due = asyncio.Event()
        self._writing = asyncio.Lock()

    def take(self, exchange: Exchange) -> None:
        """Add one answered request. Those that came from the other proxy are counted there."""
        keep = self.keep()
        if keep == "off" or exchange.hop or not exchange.model or exchange.path.endswith(_NO_USE):
            return
        now = time.time()
        # A day that this machine's clock does not know yet, or any more, would stay for ever.
        moment = exchange.time if abs(exchange.time - now) < 86400 else now
        key = self._key(exchange, moment, keep == "details")
        sums = self.pending.get(key)
        if sums is None and len(self.pending) >= KEPT_DETAILS:
            # It cannot be told apart for ever; it is counted all the same.
            key = self._key(exchange, moment, False)
            sums = self.pending.get(key)
        if sums is None:
            if len(self.pending) >= KEPT_SUMS:
                return
            if not self.pending:
                # Not the time: a clock that is set back would give one twice, and the second would not be counted.
                self.number = secrets.token_hex(16)
            sums = self.pending[key] = [0] * len(usage_file.FIGURES)
        spent = exchange.input_tokens + exchange.output_tokens
        for place, value in enumerate(
            (
                1,
                exchange.status >= 400 or exchange.trouble not in ("", "client-gone"),
                exchange.input_tokens,
                exchange.output_tokens,
                exchange.cache_read_tokens,
                exchange.cache_write_tokens,
                exchange.cost or 0.0,
                exchange.cost is None and spent > 0,
            )
        ):
            sums[place] += value
        self._due.set()

    def _key(self, exchange: Exchange, moment: float, detailed: bool) -> Detail | Day:
        model = self.label(exchange)
        if not detailed:
            return usage_file.day_of(moment), model, exchange.slot
        session = exchange.session_id or (f"pid {exchange.session}" if exchange.session is not None else "")
        return (
            *(usage_file.hour_of(moment), model, exchange.slot, exchange.provider),
            *(*self.places.of(exchange), session, exchange.agent_id),
        )

    def on_place(self, folder: str) -> None:
        """Somebody has looked at a folder: what came from there before was on that branch."""
        branch = self.places.place(folder).branch
        for key in [key for key in self.pending if len(key) == 8 and key[4] == folder and key[5] is None]:
            sums = self.pending.pop(key)
            known = (*key[:5], branch, *key[6:])
            into = self.pending.setdefault(known, [0] * len(sums))
            into[:] = [one + other for one, other in zip(into, sums, strict=True)]

    async def run(self) -> None:
        """Write what is due, until cancelled."""
        while True:
            await self._due.wait()
            await asyncio.sleep(AGAIN_AFTER if self.failed else WRITE_AFTER)
            await self.write()

    async def write(self) -> str:
        """Write everything now. Returns why that failed, or an empty text."""
        async with self._writing:
            while self.hand or self.pending:
                if not self.hand:
                    self.hand.append((self.number, self._rows()))
                    self.pending = {}
                    self.before()
                reason = await self._write(*self.hand[0])
                if reason:
                    self._failed(reason)
                    return reason
                del self.hand[0]
            self._due.clear()
            if self.failed:
                self.failed = ""
                self.trouble("")
        return ""

    def _rows(self) -> list[list[Any]]:
        return [[*self._named(key), *sums] for key, sums in self.pending.items()]

    def _named(self, key: Detail | Day) -> tuple[Any, ...]:
        """The key as the file has it: with the project instead of a folder, and its branch, known by now."""
        if len(key) == 3:
            return key
        hour, model, slot, provider, folder, branch, session, agent = key
        place = self.places.place(folder)
        named = place.branch if branch is None else branch
        return hour, model, slot, provider, place.project, named, session, agent

    def _failed(self, reason: str) -> None:
        said, self.failed = self.failed, reason
        if not said:
            self.trouble(reason)

    async def _write(self, number: str, rows: list[list[Any]]) -> str:
        batch = json.dumps({"number": number, "rows": rows}).encode()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", usage_file.__file__, str(self.path)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
        except OSError as error:
            return error.strerror or str(error)
        try:
            async with asyncio.timeout(WRITE_TIMEOUT):
                out, _ = await process.communicate(batch)
            said = json.loads(out)
        except TimeoutError:
            return f"it took longer than {WRITE_TIMEOUT:.0f} s"
        except ValueError:
            return f"the writer ended with status {process.returncode}"
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if said.get("moved"):
            self.moved(str(said["moved"]))
        return str(said.get("error", ""))

    # ------------------------------------------------------------------------------------------- hand-over

    def notes(self) -> dict[str, Any]:
        """What is not in the file yet, or may not be."""
        return {"unwritten": [*self.hand, *([(self.number, self._rows())] if self.pending else [])]}

    def restore(self, notes: dict[str, Any]) -> None:
        """Take over from a former supervisor; notes of another form are left out."""
        widths = {len(keys) + len(usage_file.FIGURES) for keys in (usage_file.KEYS, usage_file.DETAILS)}
        try:
            found = [
                (str(number), [list(row) for row in rows]) for number, rows in notes.get("unwritten", [])
            ]
        except (TypeError, ValueError, AttributeError):
            return
        if found and all(len(row) in widths for _number, rows in found for row in rows):
            self.hand = found
            self._due.set()
