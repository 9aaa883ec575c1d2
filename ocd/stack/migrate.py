"""Bring in a set-up of before ocd: ``~/.litellm/config*.yaml``, ``~/.openClaude``. Read only; texts come out.

The originals are left alone. What comes out is fixed like ``occtl config check --fix`` does it, so that it passes
the check wherever that is mechanical.
"""

import json
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ocd.settings.edits import REMOVED, Edit
from ocd.settings.findings import ConfigError, Finding
from ocd.settings.folders import Folders
from ocd.settings.load import FILE, Settings, load, read_text
from ocd.settings.tomlset import KeyPath, Value, set_keys
from ocd.stack.fix import apply, fix_all
from ocd.stack.inputs import litellm_inputs
from ocd.stack.litellm_file import LARGEST, compose, load_litellm
from ocd.stack.models import site_packages
from ocd.stack.presets import PRESETS, files, toml_template
from ocd.stack.routes import plain_name
from ocd.stack.stack import AWS, ENVIRON, Route, names, routes, serves

#: names that the seeds' set-up gives its files, the first that exists counts
_MAIN = ("config.yaml", "config.yml", "litellm-config.yaml")
_BEDROCK = ("config-bedrock.yaml", "config-bedrock.yml", "litellm-config-bedrock.yaml")
_NEW = {"main": "litellm.yaml", "bedrock": "litellm-bedrock.yaml"}
_SLOTS = {
    "opus": ("ANTHROPIC_DEFAULT_OPUS_MODEL",),
    "sonnet": ("ANTHROPIC_DEFAULT_SONNET_MODEL",),
    "haiku": ("ANTHROPIC_DEFAULT_HAIKU_MODEL", "ANTHROPIC_SMALL_FAST_MODEL"),
    "fable": ("ANTHROPIC_DEFAULT_FABLE_MODEL",),
}
_PLACE = re.compile(r"[\w-]+|\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Found:
    """What there is of it; None where there is nothing."""

    main: Path | None
    bedrock: Path | None
    separate: Path | None

    def __bool__(self) -> bool:
        return bool(self.main or self.bedrock or self.separate)


@dataclass(slots=True)
class Plan:
    """``texts``: each file of the configuration folder to be written. ``notes`` are for the person."""

    texts: dict[Path, str]
    findings: list[Finding]
    notes: list[str] = field(default_factory=list)


def find(home: Path) -> Found:
    """Look where the seeds' set-up puts things."""
    old, separate = home / ".litellm", home / ".openClaude"
    return Found(
        _first(old / name for name in _MAIN),
        _first(old / name for name in _BEDROCK),
        separate if separate.is_dir() else None,
    )


def _first(paths: Iterable[Path]) -> Path | None:
    return next((path for path in paths if path.is_file()), None)


def plan(folders: Folders, found: Found) -> Plan:
    """What our configuration folder should hold afterwards. Raises ConfigError when an old file cannot be read."""
    notes: list[str] = []
    texts = _litellm_texts(found, notes)
    toml = folders.config / FILE
    before = read_text(toml) or toml_template()
    with tempfile.TemporaryDirectory(prefix="ocd-migrate-") as temporary:
        stage = Path(temporary) / "config"
        there = Folders(stage, folders.data, folders.state, folders.runtime, folders.bin)
        for name, text in texts.items():
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            (stage / name).write_text(text, encoding="utf-8", newline="")
        stage.mkdir(exist_ok=True)
        texts[FILE] = set_keys(before, _settings(there, found, notes))
        (stage / FILE).write_text(texts[FILE], encoding="utf-8", newline="")
        settings = load(there, {})
        site = site_packages(settings.litellm.python or folders.data / "litellm" / "bin" / "python")
        findings = _mended(there, settings, site, texts, notes)
    return Plan({folders.config / name: text for name, text in texts.items()}, findings, notes)


# ---- the LiteLLM files


def _litellm_texts(found: Found, notes: list[str]) -> dict[str, str]:
    """Both files, by the names that they get here, with what they include and the code beside them."""
    texts: dict[str, str] = {}
    shipped = files(PRESETS["mixed"], Settings().aws_region)
    for proxy, old in (("main", found.main), ("bedrock", found.bedrock)):
        if old is None:
            texts[_NEW[proxy]] = shipped[_NEW[proxy]]
            continue
        load_litellm(old)
        texts[_NEW[proxy]] = read_text(old, LARGEST)
        included, code = litellm_inputs(old)
        for path in [*included[1:], *code]:
            if path.is_file() and path.is_relative_to(old.parent):
                name = str(path.relative_to(old.parent))
                if name not in _NEW.values():
                    texts.setdefault(name, read_text(path, LARGEST))
            else:
                notes.append(f"{path} was not brought along: it lies outside {old.parent}")
    if found.main is not None and found.bedrock is None:
        texts[_NEW["bedrock"]] = _with_routes_of(found.main, texts[_NEW["bedrock"]])
    return texts


def _with_routes_of(main: Path, shipped: str) -> str:
    """The shipped bedrock file, its entries replaced by what the main file has under the same names.

    Other AWS routes of a single-proxy set-up are moved by the fix; one whose name is here already would be lost.
    """
    place = main.with_name(_NEW["bedrock"])
    theirs = {route.name: route for route in routes(load_litellm(main)) if route.provider in AWS}
    data = compose(place, shipped).data
    for index, entry in enumerate(data["model_list"]):
        route = theirs.get(entry["model_name"])
        for name, value in route.params.items() if route is not None else ():
            if isinstance(value, str) and not (value.startswith(ENVIRON) and name in entry["litellm_params"]):
                value = f"bedrock/{value}" if name == "model" and "/" not in value else value
                where = ("model_list", index, "litellm_params", name)
                shipped = apply(place, shipped, Edit(place, where, value))
    return shipped


# ---- ocd.toml


def _settings(there: Folders, found: Found, notes: list[str]) -> dict[KeyPath, Value | None]:
    """Region, profile and slots as the old set-up had them."""
    files_ = {proxy: load_litellm(there.config / name) for proxy, name in _NEW.items()}
    everything = [route for file in files_.values() for route in routes(file)]
    aws = [route for route in everything if route.provider in AWS]
    keys: dict[KeyPath, Value | None] = {}
    for setting, name in (("aws_region", "aws_region_name"), ("aws_profile", "aws_profile_name")):
        values = {value for value in map(lambda route: route.params.get(name), aws) if _is_literal(value)}
        if len(values) == 1:
            value = str(values.pop())
            keys[(setting,)] = value if value != getattr(Settings(), setting) else None
    known = [name for file in files_.values() for name in names(file)]
    for slot in _SLOTS:
        group = _slot(slot, found, known, aws, notes)
        keys[("slots", slot)] = group if group != getattr(Settings().slots, slot) else None
    return keys


def _is_literal(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and not value.startswith(ENVIRON)


def _slot(slot: str, found: Found, known: list[str], aws: list[Route], notes: list[str]) -> str:
    """The model group for the slot; empty: Claude Code chooses."""
    default = str(getattr(Settings().slots, slot))
    for name in _SLOTS[slot]:
        wanted = plain_name(_old_env(found).get(name, ""))
        if wanted and serves(known, wanted):
            return wanted
        if wanted:
            notes.append(f"the {slot} slot asked for {wanted}, which no file serves")
    if default and not serves(known, default) and aws:
        return aws[0].name
    return default


def _old_env(found: Found) -> dict[str, str]:
    """The ``env`` of the separate folder's settings.json: only the slots are looked at."""
    if found.separate is None:
        return {}
    try:
        env = json.loads((found.separate / "settings.json").read_bytes())["env"]
        return {str(name): value for name, value in env.items() if isinstance(value, str)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


# ---- mending


def _mended(
    there: Folders, settings: Settings, site: Path | None, texts: dict[str, str], notes: list[str]
) -> list[Finding]:
    """Fix ``texts`` until nothing mechanical is left; returns what is."""
    from ocd.stack.check import check

    def fixed() -> list[Finding]:
        for path, text in fix_all(there, settings, site).items():
            path.write_text(text, encoding="utf-8", newline="")
            texts[str(path.relative_to(there.config))] = text
        return check(there, settings, site)

    findings = fixed()
    for _ in range(20):
        callback = next((one for one in findings if _is_lost_callback(one)), None)
        before = _without(there, callback, texts) if callback is not None else ""
        if callback is None or not before:
            break
        notes.append(f"the custom code {before} was left out: {callback.what.rstrip('.')}")
        findings = fixed()
    return findings


def _is_lost_callback(finding: Finding) -> bool:
    """The seeds' callbacks hand the plan's login to Bedrock, or name files that are gone."""
    error = finding.severity == "error" and finding.code.startswith("callback-")
    return error or finding.code == "callback-sets-api-key"


def _without(there: Folders, finding: Finding, texts: dict[str, str]) -> str:
    """Take the callback out of its file and return its name, empty when it cannot be found there.

    The finding names it by its place, or by the line of its module.
    """
    for name in _NEW.values():
        path = there.config / name
        try:
            document = compose(path, texts[name])
        except ConfigError:
            continue
        for where in _callbacks(document.data):
            stem = Path(finding.file).stem
            here: Any = document.data
            for part in where:
                here = here[part]
            mine = finding.file == str(path) and _same_place(finding.key, where)
            if not mine and not (Path(finding.file).suffix == ".py" and str(here).startswith(f"{stem}.")):
                continue
            after = apply(path, texts[name], Edit(path, where, REMOVED))
            if after != texts[name]:
                path.write_text(after, encoding="utf-8", newline="")
                texts[name] = after
                return str(here)
    return ""


def _callbacks(data: Any) -> list[tuple[str | int, ...]]:
    section = data.get("litellm_settings") if isinstance(data, dict) else None
    listed = section.get("callbacks") if isinstance(section, dict) else None
    places: list[tuple[str | int, ...]] = [
        ("litellm_settings", "callbacks", index)
        for index in range(len(listed) if isinstance(listed, list) else 0)
    ]
    general = data.get("general_settings") if isinstance(data, dict) else None
    if isinstance(general, dict) and isinstance(general.get("custom_auth"), str):
        places.append(("general_settings", "custom_auth"))
    return places


def _same_place(key: str, where: tuple[str | int, ...]) -> bool:
    found = [int(one[1]) if one[1] else one[0] for one in _PLACE.finditer(key)]
    return found == list(where) or found == list(where[:-1])
