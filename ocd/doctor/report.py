"""One line of the report, and how several checks are run without one of them spoiling the rest."""

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ocd.errors import OcdError

Level = Literal["error", "warning", "note", "ok"]
_RANK: dict[str, int] = {"error": 0, "warning": 1, "note": 2, "ok": 3}


@dataclass(frozen=True, slots=True)
class Row:
    """``level`` "error": unfit to run until it is mended; "ok": what was looked at and is in order. ``fix`` is a
    command or an action. No text holds a secret."""

    level: Level
    check: str
    code: str
    what: str
    why: str = ""
    fix: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


Check = Callable[[], list[Row]]


def of_error(check: str, error: OcdError, level: Level = "error") -> Row:
    return Row(level, check, error.code, error.what, error.why, error.next_step)


def worst_first(rows: Iterable[Row]) -> list[Row]:
    """Errors, warnings, notes, what is in order; inside each in the order of the checks."""
    return sorted(once(list(rows)), key=lambda row: _RANK[row.level])


#: a finding → what other checks say of the same thing, with advice for another case
_SAME = {"aws-not-set-up": ("aws-no-credentials", "aws-profile-missing")}


def once(rows: list[Row]) -> list[Row]:
    """Without those that say again what a better one says."""
    said = {code for row in rows for code in _SAME.get(row.code, ())}
    return [row for row in rows if row.code not in said]


def fit(rows: Iterable[Row]) -> bool:
    return not any(row.level == "error" for row in rows)


def run(checks: Mapping[str, Check], seconds: float) -> list[Row]:
    """Run the checks side by side, each for ``seconds`` at most, and return their rows, worst first.

    One that hangs or breaks is a warning of its own: a report with a hole in it is better than none.
    """
    found: dict[str, list[Row]] = {}

    def work(name: str, check: Check) -> None:
        try:
            found[name] = check()
        except OcdError as error:
            found[name] = [of_error(name, error)]
        except Exception as error:
            # the text of an unknown exception may quote a file
            what = f"{name} could not be checked"
            found[name] = [Row("warning", name, "check-failed", what, type(error).__name__, "Report it")]

    threads = {
        name: threading.Thread(target=work, args=(name, check), daemon=True) for name, check in checks.items()
    }
    for thread in threads.values():
        thread.start()
    rows: list[Row] = []
    for name, thread in threads.items():
        thread.join(seconds)
        if name in found:
            rows += found[name]
        else:
            what = f"{name} could not be checked in time"
            why = f"it takes more than {seconds:g} s; a folder on a network that does not answer does that"
            rows.append(Row("warning", name, "check-slow", what, why, "Run `occtl doctor` again"))
    return worst_first(rows)
