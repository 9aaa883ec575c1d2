"""``occtl usage --html``: the figures as one page that needs nothing else: no script, no other file, no network."""

import html
import time
from collections.abc import Mapping, Sequence
from typing import Any

#: rows of one table, the most expensive first; the rest is one row
MOST_ROWS = 200
_STYLE = """
:root { color-scheme: light dark; --bar: #3b6fd4; --line: #8884; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 70rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line); }
th.n, td.n { text-align: right; white-space: nowrap; }
td { overflow-wrap: anywhere; }
tr.total td { font-weight: 600; }
svg { width: 100%; height: auto; } svg rect { fill: var(--bar); } svg text { fill: currentColor; font-size: 11px; }
"""
_COLUMNS = (
    ("requests", "requests"),
    ("failed", "failed"),
    ("input", "input_tokens"),
    ("output", "output_tokens"),
    ("cache read", "cache_read_tokens"),
    ("cache written", "cache_write_tokens"),
)


def page(
    since: str,
    now: float,
    groups: Mapping[str, tuple[Sequence[str], Sequence[Mapping[str, Any]]]],
    notes: Sequence[str],
) -> str:
    """The page. ``groups``: title → (keys, rows of ``usage_file.grouped``); ``now``: seconds since 1970."""
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime(now))
    parts = [
        "<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n",
        '<meta name=viewport content="width=device-width, initial-scale=1">\n',
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">\n",
        f"<title>ocd usage since {_text(since)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n",
        f"<h1>Usage since {_text(since)}</h1>\n<p>Made on {made}.</p>\n",
    ]
    for title, (keys, rows) in groups.items():
        parts.append(f"<h2>{_text(title)}</h2>\n")
        if not rows:
            parts.append("<p>No request.</p>\n")
            continue
        if list(keys) == ["day"]:
            parts.append(_plot(rows))
        parts.append(_table(keys, rows))
    parts.append("<h2>Notes</h2>\n<ul>\n" + "".join(f"<li>{_text(one)}</li>\n" for one in notes) + "</ul>\n")
    parts.append("</body>\n</html>\n")
    return "".join(parts)


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)


def _plot(rows: Sequence[Mapping[str, Any]]) -> str:
    """Bars of a day's cost, or of its tokens where nothing has a price."""
    money = any(row["cost"] for row in rows)
    values = [row["cost"] if money else row["input_tokens"] + row["output_tokens"] for row in rows]
    most = max(values) or 1
    width, height = 1000, 160
    step = width / len(rows)
    bars = []
    for place, (row, value) in enumerate(zip(rows, values, strict=True)):
        tall = value / most * height
        said = f"{row['day']}: {_money(value)}" if money else f"{row['day']}: {value:,} tokens"
        bars.append(
            f'<rect x="{place * step:.1f}" y="{height - tall + 20:.1f}" width="{max(1, step * 0.8):.1f}" '
            f'height="{tall:.1f}"><title>{_text(said)}</title></rect>'
        )
    label = "cost (est.) a day" if money else "tokens a day"
    top = _money(most) if money else f"{most:,}"
    return (
        f'<svg viewBox="0 0 {width} {height + 40}" role=img aria-label="{label}">'
        f'<text x="0" y="12">{_text(label)}, at most {_text(top)}</text>{"".join(bars)}'
        f'<text x="0" y="{height + 36}">{_text(rows[0]["day"])}</text>'
        f'<text x="{width}" y="{height + 36}" text-anchor="end">{_text(rows[-1]["day"])}</text></svg>\n'
    )


def _table(keys: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    if list(keys) != ["day"]:
        rows = sorted(rows, key=lambda row: (-row["cost"], -row["input_tokens"] - row["output_tokens"]))
    head = "".join(f"<th scope=col>{_text(key)}</th>" for key in keys)
    head += "".join(f"<th scope=col class=n>{_text(name)}</th>" for name, _ in _COLUMNS)
    head += "<th scope=col class=n>cost (est.)</th>"
    lines = [_row([_text(row[key]) or "-" for key in keys], row) for row in rows[:MOST_ROWS]]
    names = [figure for _, figure in _COLUMNS] + ["cost", "unpriced"]
    if rest := rows[MOST_ROWS:]:
        sums = {name: sum(row[name] for row in rest) for name in names}
        lines.append(_row([f"{len(rest)} others", *[""] * (len(keys) - 1)], sums))
    total = {name: sum(row[name] for row in rows) for name in names}
    lines.append(_row(["total", *[""] * (len(keys) - 1)], total, " class=total"))
    return f"<div class=wide><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{''.join(lines)}</tbody></table></div>\n"


def _row(cells: Sequence[str], row: Mapping[str, Any], attribute: str = "") -> str:
    made = "".join(f"<td>{cell}</td>" for cell in cells)
    made += "".join(f"<td class=n>{row[figure]:,}</td>" for _, figure in _COLUMNS)
    cost = _money(row["cost"]) + ("+" if row["unpriced"] else "")
    return f"<tr{attribute}>{made}<td class=n>{cost}</td></tr>\n"


def _money(value: float) -> str:
    return f"${value:,.2f}" if value >= 0.005 or not value else f"${value:.4f}"
