"""Figures as OpenMetrics text, written by prometheus_client; loaded when somebody asks for them."""

from collections.abc import Iterable
from types import SimpleNamespace

from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import generate_latest

from ocd.supervisor.observation.metrics import Histogram


class Family(Metric):
    """One metric: ``kind`` is gauge, counter, histogram or info."""

    def __init__(self, name: str, kind: str, help: str, unit: str = "") -> None:
        super().__init__(name, help, kind, unit)

    def add(self, value: float, suffix: str = "", **labels: str) -> "Family":
        """One sample; a counter's suffix is ``_total``, an info's ``_info`` and its value 1."""
        suffix = suffix or {"counter": "_total", "info": "_info"}.get(self.type, "")
        # What UTF-8 cannot carry becomes a question mark.
        plain = {name: text.encode("utf-8", "replace").decode() for name, text in labels.items()}
        self.add_sample(self.name + suffix, plain, value)
        return self

    def add_histogram(self, histogram: Histogram, **labels: str) -> None:
        """Cumulative buckets, count and sum."""
        so_far = 0
        for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
            so_far += count
            self.add(so_far, "_bucket", **labels, le="+Inf" if bound == float("inf") else repr(float(bound)))
        self.add(so_far, "_count", **labels)
        self.add(histogram.sum, "_sum", **labels)


def render(families: Iterable[Family]) -> str:
    """The whole exposition. A family without samples is left out."""
    found = [family for family in families if family.samples]
    text: bytes = generate_latest(SimpleNamespace(collect=lambda: found))  # type: ignore[no-untyped-call]
    return text.decode()
