"""Figures as OpenMetrics text. Pure.

Source: the OpenMetrics specification 1.0 (RFC-style text, section "Text format"): one ``# TYPE``, ``# UNIT`` and
``# HELP`` line a family, counters end in ``_total``, escapes are backslash, line feed and double quote, the text ends
with ``# EOF``. Prometheus's older text format reads the same lines.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"

Labels = Mapping[str, str]


@dataclass(slots=True)
class Family:
    """One metric: ``kind`` is gauge, counter, histogram or info; ``samples`` are (suffix, labels, value)."""

    name: str
    kind: str
    help: str
    unit: str = ""
    samples: list[tuple[str, Labels, float]] = field(default_factory=list)

    def add(self, value: float, suffix: str = "", **labels: str) -> "Family":
        """One sample; a counter's suffix is ``_total``, an info's ``_info`` and its value 1."""
        suffix = suffix or {"counter": "_total", "info": "_info"}.get(self.kind, "")
        self.samples.append((suffix, labels, value))
        return self


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

    def into(self, family: Family, **labels: str) -> None:
        """Cumulative buckets, count and sum."""
        so_far = 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            so_far += count
            family.add(
                so_far, "_bucket", **labels, le="+Inf" if bound == float("inf") else repr(float(bound))
            )
        family.add(so_far, "_count", **labels)
        family.add(self.sum, "_sum", **labels)


def number(value: float) -> str:
    """As the specification writes numbers; whole ones without a fraction, infinity as +Inf."""
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))


def escape(text: str) -> str:
    """A label's value or a help text between its quotes; what UTF-8 cannot carry becomes a question mark."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def render(families: Iterable[Family]) -> str:
    """The whole exposition. A family without samples is left out."""
    lines = []
    for family in families:
        if not family.samples:
            continue
        lines.append(f"# TYPE {family.name} {family.kind}")
        if family.unit:
            lines.append(f"# UNIT {family.name} {family.unit}")
        lines.append(f"# HELP {family.name} {escape(family.help)}")
        for suffix, labels, value in family.samples:
            inside = ",".join(f'{name}="{escape(text)}"' for name, text in labels.items())
            lines.append(f"{family.name}{suffix}{f'{{{inside}}}' if inside else ''} {number(value)}")
    return "\n".join([*lines, "# EOF", ""])
