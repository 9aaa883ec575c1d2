"""What `make walk` types is the README's; the walk itself takes a minute and is no part of the suites."""

from __future__ import annotations

from pathlib import Path

from tests.walk.walk import readme

ROOT = Path(__file__).resolve().parents[2]


def test_it_types_what_the_readme_says_and_nothing_else(tmp_path: Path) -> None:
    found = readme(ROOT / "README.md")
    assert found[0] == "python3 install.py", "set-up comes first"
    assert {"occtl selftest", "openclaude", "occtl status", "occtl doctor"} <= set(found)
    page = tmp_path / "README.md"
    fenced = "```\n$ occtl status      # a word\nproxy  state\n```\n"
    page.write_text(fenced + "`occtl stop`, `occtl aws status`, `occtl models`\n")
    assert readme(page) == ["occtl status", "occtl aws status", "occtl models"]
