"""Bills of materials of what is installed, and advisories from a stand-in of OSV's."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ocd.adapters import packages
from ocd.adapters.packages import Package
from ocd.ctl.__main__ import main
from ocd.doctor import published


class Osv(http.server.BaseHTTPRequestHandler):
    """Answers as google.github.io/osv.dev says."""

    known: ClassVar[dict[str, list[str]]] = {}
    details: ClassVar[dict[str, Any]] = {}
    asked: ClassVar[list[Any]] = []
    wrong: ClassVar[bytes] = b""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.asked.append(body)
        results = []
        for query in body["queries"]:
            vulns = self.known.get(f"{query['package']['name']} {query['version']}", [])
            results.append(
                {"vulns": [{"id": one, "modified": "2026-01-01"} for one in vulns]} if vulns else {}
            )
        self.say(self.wrong or json.dumps({"results": results}).encode())

    def do_GET(self) -> None:
        found = self.details.get(self.path.rpartition("/")[2])
        self.say(json.dumps(found).encode(), 200 if found else 404)

    def say(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_what: object) -> None:
        pass


@pytest.fixture
def osv() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Osv) as server:
        Osv.known, Osv.details, Osv.asked, Osv.wrong = {}, {}, [], b""
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


BAD = Package("litellm", "1.82.8")
GOOD = Package("h11", "0.16.0")


def test_what_is_published_is_found_with_its_fix(osv: str) -> None:
    Osv.known = {"litellm 1.82.8": ["GHSA-1", "GHSA-2"]}
    affected = {
        "package": {"name": "LiteLLM"},
        "ranges": [{"events": [{"introduced": "0"}, {"fixed": "1.83"}]}],
    }
    Osv.details = {
        "GHSA-1": {"summary": "steals credentials", "affected": [affected]},
        "GHSA-2": {"withdrawn": "2026-02-02"},
    }
    (found,) = packages.advisories([GOOD, BAD], osv)
    assert (found.package, found.id, found.fixed) == (BAD, "GHSA-1", ("1.83",))
    assert published.sentence(found) == "litellm 1.82.8: GHSA-1 (steals credentials); fixed in 1.83"
    asked = Osv.asked[0]["queries"]
    assert asked[1] == {"package": {"ecosystem": "PyPI", "name": "litellm"}, "version": "1.82.8"}


@pytest.mark.parametrize(
    "wrong", [b"{}", b"[]", b"{", b'{"results": []}', b'{"results": [1, 2, 3]}', b"\xff"]
)
def test_an_answer_that_is_not_osvs_is_no_answer(osv: str, wrong: bytes) -> None:
    Osv.wrong = wrong
    with pytest.raises(packages.Unanswered, match=osv):
        packages.advisories([GOOD, BAD], osv)


def test_nobody_there_is_no_answer() -> None:
    with pytest.raises(packages.Unanswered):
        packages.advisories([GOOD], "http://127.0.0.1:1")


def test_the_verb(
    osv: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OCD_PREFIX", str(tmp_path))
    monkeypatch.setattr(published, "consists_of", lambda name: ([GOOD if name == "ocd" else BAD], "1"))
    monkeypatch.setenv("OCD_LITELLM__ADVISORIES", osv)
    assert main(["sbom", "--advisories"]) == 0
    assert capsys.readouterr().out == "Nothing published against 2 packages.\n"
    Osv.known, Osv.details = {"h11 0.16.0": ["PYSEC-1"]}, {"PYSEC-1": {"id": "PYSEC-1"}}
    assert main(["sbom", "--advisories", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)[0]["id"] == "PYSEC-1"
    (row,) = published.rows()
    assert row.level == "warning" and "h11 0.16.0: PYSEC-1" in row.what
    monkeypatch.setenv("OCD_LITELLM__ADVISORIES", "")
    assert main(["sbom", "--advisories"]) == 69
    assert published.rows()[0].level == "note" and len(Osv.asked) == 3


def test_a_bill_of_what_is_installed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, version in (("Foo.Bar_baz", "1.0+local"), ("zlib-ng", "2")):
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\nLicense-Expression: MIT\n"
        )
    (tmp_path / "broken-1.dist-info").mkdir()
    found = packages.installed([tmp_path])
    assert [one.purl for one in found] == ["pkg:pypi/foo-bar-baz@1.0%2Blocal", "pkg:pypi/zlib-ng@2"]
    made = packages.bill("ocd", "0.2.0", found)
    assert made["components"][0]["licenses"] == [{"license": {"name": "MIT"}}]
    assert main(["sbom"]) == 0
    own = json.loads(capsys.readouterr().out)
    assert own["bomFormat"] == "CycloneDX" and own["specVersion"] == "1.6"
    names = {one["name"] for one in own["components"]}
    assert {"click", "pydantic", "psutil"} <= names
    refs = [one["bom-ref"] for one in own["components"]]
    assert own["dependencies"][0]["dependsOn"] == refs and len(set(refs)) == len(refs)
