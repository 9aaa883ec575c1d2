"""``occtl init``: the configuration of one of the shipped set-ups."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ocd.ctl import diff, effect, screen
from ocd.ctl.options import examples, json_option
from ocd.errors import EX_CONFIG, OcdError

if TYPE_CHECKING:
    from ocd.settings.folders import Folders

_NAMES = ("mixed", "fallback", "bedrock", "external", "team")


@click.command(
    short_help="Write the configuration of one of the shipped set-ups.",
    epilog=examples(
        "occtl init                                  write what is missing",
        "occtl init --preset fallback                Anthropic first, Bedrock's Claude when it is overloaded",
        "occtl init --preset mixed --force           back to the shipped files; yours are kept aside",
        "LITELLM_BASE_URL=https://… LITELLM_API_KEY=… occtl init --preset external",
        "OCD_TEAM_URL=https://… OCD_TEAM_KEY=… occtl init --preset team",
        "occtl init --undo                           put back what the last init replaced",
    ),
)
@click.option(
    "--preset", type=click.Choice(_NAMES), help="Which set-up; without it, what is missing of mixed."
)
@click.option("--force", is_flag=True, help="Replace files that you changed; they are kept aside.")
@click.option("--dry-run", is_flag=True, help="Say what would be written, and write nothing.")
@click.option("--undo", is_flag=True, help="Put back what the last init replaced.")
@json_option
def init(preset: str | None, force: bool, dry_run: bool, undo: bool, as_json: bool) -> int:
    """Write the configuration of a set-up: mixed (the default), fallback, bedrock, external or team.

    Of ocd.toml only the keys change that make the set-up; ports, profile and the like stay. Whatever is replaced
    is kept in a backup first. Files that are as they should be are left alone. Ends with 78 when a file of your
    own stands in the way and --force is not given, or when the check finds an error.
    """
    from ocd.settings.folders import Folders
    from ocd.stack.trial import try_out

    folders = Folders.find()
    if undo:
        return _undo(folders, force, as_json)
    texts, key = _wanted(folders, preset, force)
    findings = try_out(folders, texts)
    written = [str(path) for path, text in texts.items() if _text(path) != text]
    said = {"preset": preset or "mixed", "written": written, "backup": None, "dry_run": dry_run}
    if dry_run:
        if not as_json:
            for path in written:
                screen.out(f"would write {path}")
            if not written:
                screen.out("Nothing would change.")
            # of a file that is not there yet, all would be new
            diff.show({path: text for path, text in texts.items() if _text(path) is not None})
        return effect.finish(said, findings, as_json, reload=False)
    from ocd.settings import backup
    from ocd.settings.folders import private_folder
    from ocd.settings.stored_key import EXTERNAL, TEAM

    private_folder(folders.config)
    if key:
        (TEAM if preset == "team" else EXTERNAL).save(folders, key, _store(folders))
    kept = backup.change(folders, "init", texts)
    if kept is not None and any(old is not None for old, _ in kept.files.values()):
        said["backup"] = str(kept.folder)
    if not as_json:
        for path in written:
            screen.out(f"wrote {path}")
        if said["backup"]:
            screen.out(f"what was there is in {said['backup']} (`occtl init --undo` puts it back)")
        if not written:
            screen.out("Everything is as it should be.")
    return effect.finish(said, findings, as_json, reload=bool(written) or bool(key))


def _undo(folders: "Folders", force: bool, as_json: bool) -> int:
    from ocd.settings import backup

    back = backup.restore(folders, backup.latest(folders, "init"), force=force)
    if not as_json:
        for path in back:
            screen.out(f"put back {path}")
    said = {"restored": [str(path) for path in back]}
    return effect.finish(said, effect.after_undo(), as_json, reload=True)


def _text(path: Path) -> str | None:
    """The file's text as it is, None when there is none."""
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return None


def _wanted(folders: "Folders", name: str | None, force: bool) -> tuple[dict[Path, str], str]:
    """What each file should say, and the key of an external LiteLLM server when the environment has one."""
    from ocd.settings.load import FILE
    from ocd.settings.tomlset import set_keys
    from ocd.stack import presets

    preset = presets.PRESETS[name or "mixed"]
    toml = folders.config / FILE
    there = _text(toml)
    texts: dict[Path, str] = {}
    key = ""
    if name is None:
        if there is None:
            texts[toml] = presets.toml_template()
        for file, text in presets.files(preset, _region(folders)).items():
            path = folders.config / file
            if not os.path.lexists(path) and _is_used(folders, path):
                texts[path] = text
        return texts, key
    keys = dict(preset.settings)
    if name == "external":
        url, key = _external(folders)
        keys[("external", "base_url")] = url
    if name == "team":
        keys[("team", "url")], key = _team(folders)
    texts[toml] = set_keys(there if there is not None else presets.toml_template(), keys)
    in_the_way = []
    for file, text in presets.files(preset, _region(folders)).items():
        path = _place(folders, file)
        found = _text(path)
        if found is not None and found != text and not force and not presets.is_shipped(found):
            in_the_way.append(str(path))
        texts[path] = text
    if in_the_way:
        raise OcdError(
            f"{' and '.join(in_the_way)} {'is' if len(in_the_way) == 1 else 'are'} your own work",
            f"the set-up {name} has a file of that name",
            "Repeat with --force: your file is kept in a backup, and `occtl init --undo` puts it back",
            exit_code=EX_CONFIG,
            code="own-files",
        )
    return texts, key


def _place(folders: "Folders", file: str) -> Path:
    """Where the preset's file goes: into the place that ocd.toml names, when that is in our folder."""
    from ocd.settings.findings import ConfigError
    from ocd.settings.load import load
    from ocd.stack.inputs import config_path

    try:
        named = config_path(folders, load(folders), "bedrock" if "bedrock" in file else "main")
    except ConfigError:
        return folders.config / file
    return named if named.is_relative_to(folders.config) else folders.config / file


def _is_used(folders: "Folders", path: Path) -> bool:
    """Whether ocd.toml leads to the file, and its proxy is on."""
    from ocd.settings.findings import ConfigError
    from ocd.settings.load import load

    try:
        settings = load(folders)
    except ConfigError:
        return True
    return any(
        settings.proxy(one).enabled and folders.config / settings.proxy(one).config == path
        for one in ("main", "bedrock")
    )


def _region(folders: "Folders") -> str:
    from ocd.settings.findings import ConfigError
    from ocd.settings.load import load
    from ocd.settings.schema import Settings

    try:
        return load(folders).aws_region
    except ConfigError:
        return Settings().aws_region


def _store(folders: "Folders") -> str:
    """Where keys are kept, by the settings; a file that cannot be read says nothing of it."""
    from ocd.settings.findings import ConfigError
    from ocd.settings.load import load

    try:
        return load(folders).keys.store
    except ConfigError:
        return "files"


def _team(folders: "Folders") -> tuple[str, str]:
    """Address and key: from the environment, else what is stored. Raises OcdError, exit 78."""
    from ocd.settings.load import load
    from ocd.settings.schema import Team
    from ocd.settings.stored_key import TEAM

    url = os.environ.get("OCD_TEAM_URL") or load(folders).team.url
    if not url:
        raise OcdError(
            "The set-up team needs an address",
            "OCD_TEAM_URL is not set",
            "Run `OCD_TEAM_URL=https://… OCD_TEAM_KEY=… occtl init --preset team`",
            exit_code=EX_CONFIG,
            code="no-team-address",
        )
    try:
        url = Team(url=url).url
    except ValueError:
        raise OcdError(
            "OCD_TEAM_URL is not an address that can be used",
            "https://HOST or https://HOST:PORT is expected, without a key in it",
            exit_code=EX_CONFIG,
            code="team-address",
        ) from None
    key = TEAM.load(folders, os.environ)
    return url, key if os.environ.get(TEAM.variable) else ""


def _external(folders: "Folders") -> tuple[str, str]:
    """Address and key: from the environment, else what is stored. Raises OcdError, exit 78."""
    from ocd.settings.load import load
    from ocd.settings.schema import External
    from ocd.settings.stored_key import EXTERNAL

    url = os.environ.get("LITELLM_BASE_URL") or load(folders).external.base_url
    if not url:
        raise OcdError(
            "The set-up external needs an address",
            "LITELLM_BASE_URL is not set",
            "Run `LITELLM_BASE_URL=https://… LITELLM_API_KEY=… occtl init --preset external`",
            exit_code=EX_CONFIG,
            code="no-external-address",
        )
    try:
        url = External(base_url=url).base_url
    except ValueError:
        raise OcdError(
            "LITELLM_BASE_URL is not an address",
            "https://HOST or http://HOST:PORT is expected, without a key in it",
            exit_code=EX_CONFIG,
            code="external-address",
        ) from None
    key = EXTERNAL.load(folders, os.environ)
    return url, key if os.environ.get(EXTERNAL.variable) else ""
