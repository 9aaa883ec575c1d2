"""An installation whose files are a former version's, unchanged: bring it to today's, once, with a backup.

Former versions named Claude models in their files, which Anthropic retires. A file that somebody changed is theirs and
stays (``ocd.stack.rules.retire`` warns of what it names). Once: who takes it back (`occtl init --undo`) means it.
"""

import contextlib
import os
from pathlib import Path

from ocd.errors import OcdError
from ocd.settings import backup
from ocd.settings.findings import ConfigError
from ocd.settings.folders import Folders, private_folder
from ocd.settings.load import FILE, Settings, load
from ocd.settings.tomlset import set_keys
from ocd.stack import former, presets
from ocd.stack.inputs import config_path

#: in the state folder; its content is what was said, empty: there was nothing to do
MARK = "renewed-0.2.0"


def plan(folders: Folders, settings: Settings) -> dict[Path, str]:
    """What each file should say instead; empty when nothing of a former version is left, or all of it was changed."""
    main = config_path(folders, settings, "main")
    toml, aws = folders.config / FILE, config_path(folders, settings, "bedrock")
    here = {"main": _former(main, "litellm.yaml"), "aws": _former(aws, "litellm-bedrock.yaml")}
    if here["main"] is None:
        return {}
    name = here["main"].presets[0]
    preset = presets.PRESETS[name]
    prefix = presets.PREFIXES[0]
    if name != "mixed":
        # Both files name each other's groups: one alone would lead nowhere. Nor may a slot that is meant for Bedrock
        # come to ask Anthropic for a group that is no longer there.
        if here["aws"] is None or name not in here["aws"].presets:
            return {}
        if any(group.endswith("-bedrock") for _slot, group in settings.slots):
            return {}
        prefix = here["aws"].prefix
    fresh = presets.files_with(preset, prefix)
    texts = {main: fresh["litellm.yaml"]}
    if name != "mixed":
        texts[aws] = fresh["litellm-bedrock.yaml"]
    written = _former(toml, FILE)
    if written is not None and name in written.presets:
        texts[toml] = set_keys(presets.toml_template(), dict(preset.settings))
    return texts


def _former(path: Path, name: str) -> former.Former | None:
    try:
        found = former.of(path.read_bytes())
    except OSError:
        return None
    return found if found is not None and found.file == name else None


def renew(folders: Folders) -> str:
    """Do it, unless it was done before. Returns a sentence that says so, empty when nothing was changed.

    Never raises: whatever cannot be read or written is left as it is, serves on, and is tried again next time.
    """
    mark = folders.state / MARK
    if os.path.lexists(mark):
        return ""
    try:
        settings = load(folders, {})
        texts = plan(folders, settings)
        kept = backup.change(folders, "init", texts) if texts else None
        text = ""
        if kept is not None:
            names = ", ".join(path.name for path in kept.files)
            text = (
                f"{names} named Claude models that are retired, and were as ocd had written them: now Claude Code "
                "chooses the models (`occtl init --undo` takes that back)"
            )
        private_folder(folders.state)
        _mark(mark, text)
    except (OcdError, ConfigError, OSError, ValueError):
        return ""
    return text


def said(folders: Folders) -> str:
    """The sentence that ``renew`` gave when it changed something; empty otherwise."""
    try:
        return (folders.state / MARK).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _mark(mark: Path, said: str) -> None:
    with contextlib.suppress(FileExistsError):
        handle = os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(handle, "w", encoding="utf-8") as file:
            file.write(said)
