"""What an environment consists of, and what is published against it.

The package list is read from the installed metadata (nothing in the environment is run). Advisories are asked of a
service that speaks OSV's API (``POST /v1/querybatch``, ``GET /v1/vulns/ID``: google.github.io/osv.dev); it learns names
and versions of packages, nothing else.
"""

import concurrent.futures
import importlib.metadata
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

#: packages in one question (OSV's own limit), bytes of one answer, advisories that are looked up one by one
MOST_ASKED = 1000
LARGEST = 8 * 1024 * 1024
MOST_LOOKED_UP = 40
#: seconds for each answer
PATIENCE = 20.0


class Unanswered(Exception):
    """Nobody could say; the text is why."""


@dataclass(frozen=True, slots=True)
class Package:
    """One installed package; ``name`` normalised (PEP 503), ``license`` as it says itself, perhaps empty."""

    name: str
    version: str
    license: str = ""

    @property
    def purl(self) -> str:
        return f"pkg:pypi/{self.name}@{quote(self.version, safe='')}"


@dataclass(frozen=True, slots=True)
class Advisory:
    """Something published against one package. ``fixed``: the versions that have it no more."""

    package: Package
    id: str
    summary: str = ""
    fixed: tuple[str, ...] = ()


def installed(sites: Iterable[Path]) -> list[Package]:
    """The packages below these ``site-packages``, by name. One whose metadata is broken is left out."""
    found: dict[str, Package] = {}
    for one in importlib.metadata.distributions(path=[str(site) for site in sites]):
        said: Any = one.metadata
        name, version = said.get("Name"), said.get("Version")
        if name and version:
            plain = re.sub(r"[-_.]+", "-", name).lower()
            licence = said.get("License-Expression") or said.get("License") or ""
            found[plain] = Package(plain, version, licence.strip().split("\n")[0][:120])
    return [found[name] for name in sorted(found)]


def advisories(packages: Iterable[Package], url: str) -> list[Advisory]:
    """What the service at ``url`` has against these packages. Raises Unanswered."""
    import httpx

    wanted = list(packages)
    try:
        with httpx.Client(timeout=PATIENCE, follow_redirects=False) as client:
            ids: list[tuple[Package, str]] = []
            for start in range(0, len(wanted), MOST_ASKED):
                part = wanted[start : start + MOST_ASKED]
                ids += _ids(part, _json(client.stream("POST", f"{url}/v1/querybatch", json=_question(part))))

            def look_up(pair: tuple[Package, str]) -> Advisory | None:
                said = _json(client.stream("GET", f"{url}/v1/vulns/{quote(pair[1], safe='')}"))
                return _advisory(pair[0], pair[1], said)

            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                known = [one for one in pool.map(look_up, ids[:MOST_LOOKED_UP]) if one is not None]
            return known + [Advisory(*pair) for pair in ids[MOST_LOOKED_UP:]]
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        raise Unanswered(f"{url}: {error or type(error).__name__}") from None


def _json(answer: Any) -> Any:
    import json

    with answer as response:
        if response.status_code != 200:
            raise ValueError(f"status {response.status_code}")
        body = b""
        for piece in response.iter_bytes():
            body += piece
            if len(body) > LARGEST:
                raise ValueError("the answer is too large")
    return json.loads(body)


def _question(packages: list[Package]) -> dict[str, Any]:
    return {
        "queries": [
            {"package": {"ecosystem": "PyPI", "name": one.name}, "version": one.version} for one in packages
        ]
    }


def _ids(packages: list[Package], said: Any) -> list[tuple[Package, str]]:
    results = said.get("results") if isinstance(said, dict) else None
    if not isinstance(results, list) or len(results) != len(packages):
        raise ValueError("the answer is not OSV's")
    found = []
    for package, result in zip(packages, results, strict=True):
        listed = result.get("vulns") if isinstance(result, dict) else None
        for one in listed if isinstance(listed, list) else []:
            if isinstance(one, dict) and isinstance(one.get("id"), str):
                found.append((package, one["id"][:100]))
    return found


def _advisory(package: Package, identity: str, said: Any) -> Advisory | None:
    """None: it was withdrawn."""
    if not isinstance(said, Mapping) or said.get("withdrawn"):
        return None
    fixed = []
    for affected in said.get("affected") or ():
        if (affected.get("package") or {}).get("name", "").lower() != package.name:
            continue
        for spread in affected.get("ranges") or ():
            fixed += [str(event["fixed"]) for event in spread.get("events") or () if "fixed" in event]
    return Advisory(package, identity, str(said.get("summary") or "")[:300], tuple(dict.fromkeys(fixed)))


def bill(name: str, version: str, packages: Iterable[Package]) -> dict[str, Any]:
    """A bill of materials in CycloneDX 1.6 (cyclonedx.org/docs/1.6/json): ``name`` and what it consists of."""
    component = {"type": "application", "bom-ref": name, "name": name, "version": version}
    listed = list(packages)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": component},
        "components": [
            {
                "type": "library",
                "bom-ref": one.purl,
                "name": one.name,
                "version": one.version,
                "purl": one.purl,
                **({"licenses": [{"license": {"name": one.license}}]} if one.license else {}),
            }
            for one in listed
        ],
        "dependencies": [{"ref": name, "dependsOn": [one.purl for one in listed]}],
    }
