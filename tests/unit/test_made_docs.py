"""Man pages, schemas and the list of errors are as the code says; every message can be found there."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ocd.ctl.app import VERBS
from ocd.wire import messages

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def made() -> Any:
    spec = importlib.util.spec_from_file_location("docs_make", ROOT / "docs" / "make.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_made_from_the_code_is_up_to_date(made: Any) -> None:
    stale = [
        str(path.relative_to(ROOT))
        for path, text in made.everything().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    assert not stale, "run `make docs`"


def test_every_error_has_its_anchor_and_its_words(made: Any) -> None:
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    anchors = set(re.findall(r"^## (\S+)$", page, re.MULTILINE))
    found = made.errors()
    assert len(found) > 80 and set(found) == anchors
    # Each code that is written anywhere where an error is made, whatever the rest of the call looks like.
    written: set[str] = set()
    for path in (ROOT / "ocd").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        written.update(re.findall(r'^\s+code="([a-z][a-z0-9-]+)",?$', text, re.MULTILINE))
    assert not written - anchors, "docs/make.py does not see how these are made"
    flat = re.sub(r"\\(.)", r"\1", " ".join(page.split()))
    for texts in found.values():
        for what, _why, _step in texts:
            assert what in flat, what


def test_every_verb_and_every_key_has_a_place_in_the_manual(made: Any) -> None:
    page = (ROOT / "ocd" / "man" / "occtl.1").read_text(encoding="utf-8")
    for verbs in VERBS.values():
        for verb in verbs:
            if verb != "statusline":
                assert re.search(rf"^\.SS {verb}\b", page, re.MULTILINE), verb
    keys = (ROOT / "ocd" / "man" / "ocd.toml.5").read_text(encoding="utf-8")
    for table in made.describe.tables():
        for entry in table.entries:
            assert f".B {made.roff(entry.path[-1])} (" in keys, entry.key


def test_nothing_in_a_page_is_an_order_to_the_formatter(made: Any) -> None:
    assert made.roff(".so /etc/passwd\n'x\na\\b-c…") == "\\&.so /etc/passwd\n\\&'x\na\\eb\\-c\\[u2026]"


@pytest.mark.skipif(shutil.which("groff") is None, reason="there is no groff here")
@pytest.mark.parametrize("name", ["occtl.1", "openclaude.1", "ocd.1", "ocd.toml.5"])
def test_the_formatter_has_nothing_to_say(name: str) -> None:
    command = ["groff", "-man", "-ww", "-Tutf8", str(ROOT / "ocd" / "man" / name)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert "SEE ALSO" in re.sub(".\b", "", done.stdout)


def test_schemas_describe_what_is_sent(made: Any) -> None:
    schema = made.schemas()["Exchange.json"]
    assert '"input_tokens"' in schema and '"description"' in schema
    for name in made.JSON_OUTPUT:
        assert isinstance(getattr(messages, name), type)
