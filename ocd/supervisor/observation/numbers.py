"""Which reports of a process were taken: each counts once, however often it is told (``ocd/guest/reports.py``)."""

from typing import Any

#: numbers above a gap that are remembered; then the gap is given up
KEPT = 1000


class Numbers:
    """By proxy and generation: all numbers up to one were taken, and some above it."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], tuple[int, set[int]]] = {}

    def first(self, proxy: str, generation: int, number: int) -> bool:
        """Whether this report is told for the first time; from now on it was."""
        upto, above = self._known.get((proxy, generation), (0, set()))
        if number <= upto or number in above:
            return False
        above.add(number)
        if len(above) > KEPT:
            upto = min(above) - 1
        while upto + 1 in above:
            upto += 1
            above.remove(upto)
        self._known[proxy, generation] = upto, above
        return True

    def upto(self, proxy: str, generation: int) -> int:
        """All reports up to this number were taken."""
        return self._known.get((proxy, generation), (0, set()))[0]

    def forget(self, proxy: str, generation: int) -> None:
        """The process is gone."""
        self._known.pop((proxy, generation), None)

    # ------------------------------------------------------------------------------------------- hand-over

    def notes(self) -> list[Any]:
        """What a successor needs."""
        return [[*key, upto, sorted(above)] for key, (upto, above) in self._known.items()]

    def restore(self, notes: Any) -> None:
        """Take over from a former supervisor. Raises TypeError or ValueError for notes of another form."""
        for proxy, generation, upto, above in notes:
            self._known[str(proxy), int(generation)] = int(upto), {int(one) for one in above}
