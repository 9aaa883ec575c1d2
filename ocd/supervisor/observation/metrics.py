"""What is counted from the answered requests as they come, for ``GET /metrics``."""

from collections.abc import Callable, Sequence

from ocd.wire.messages import Exchange

#: of ``exposition.py``'s text (OpenMetrics 1.0, "Overall Structure")
CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"

#: seconds; a background call takes less than one, a long answer minutes
SECONDS = (0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
FIRST = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
#: combinations of labels that are counted apart; more of them are counted as ``other``
KEPT_SERIES = 400
_TOKENS = (
    ("input", "input_tokens"),
    ("output", "output_tokens"),
    ("cache_read", "cache_read_tokens"),
    ("cache_write", "cache_write_tokens"),
)


class Histogram:
    """Counts of values in buckets; ``bounds`` are upper ones, ascending, without +Inf."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        for place, bound in enumerate(self.bounds):
            if value <= bound:
                self.counts[place] += 1
                break
        else:
            self.counts[-1] += 1
        self.sum += value


class Counts:
    """Requests, tokens and durations since the supervisor started. ``label`` bounds the names of model groups."""

    def __init__(self, label: Callable[[Exchange], str]) -> None:
        self.label = label
        self.requests: dict[tuple[str, str, str, str, str], int] = {}
        self.tokens: dict[tuple[str, str, str, str], int] = {}
        self.seconds: dict[tuple[str, str], Histogram] = {}
        self.first: dict[tuple[str, str], Histogram] = {}

    def take(self, exchange: Exchange) -> None:
        """Count one answered request. What only counts tokens is none: Claude Code asks twenty times for a /context."""
        if exchange.path.endswith("/count_tokens"):
            return
        model = self.label(exchange) if exchange.model else ""
        place = (exchange.proxy, exchange.slot)
        key = (*place, model, str(exchange.status), exchange.trouble)
        if key not in self.requests and len(self.requests) >= KEPT_SERIES:
            key = (*place, "other", "other", "other")
        self.requests[key] = self.requests.get(key, 0) + 1
        for kind, name in _TOKENS:
            count = getattr(exchange, name)
            if count:
                of = (*place, model, kind)
                self.tokens[of] = self.tokens.get(of, 0) + count
        _observe(self.seconds, place, SECONDS, exchange.seconds)
        if exchange.first is not None and exchange.stream:
            _observe(self.first, place, FIRST, exchange.first)


def _observe(
    into: dict[tuple[str, str], Histogram], place: tuple[str, str], bounds: tuple[float, ...], value: float
) -> None:
    histogram = into.get(place)
    if histogram is None:
        histogram = into[place] = Histogram(bounds)
    histogram.observe(value)
