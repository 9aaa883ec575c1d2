"""What would the checks say if these files were written? Looked at in a private copy."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ocd.settings.findings import ConfigError, Finding, worst_first
from ocd.settings.folders import Folders
from ocd.settings.load import load
from ocd.settings.schema import Settings
from ocd.stack.check import check
from ocd.stack.models import site_packages

#: of a folder that somebody keeps other things in; no configuration is that large
_MOST_BYTES = 64 << 20


def litellm_site(folders: Folders, settings: Settings) -> Path | None:
    """LiteLLM's site-packages folder, from which the checks learn the model ids; None where it is missing."""
    return site_packages(settings.litellm.python or folders.data / "litellm" / "bin" / "python")


def try_out(folders: Folders, texts: Mapping[Path, str]) -> list[Finding]:
    """The findings, worst first, as if ``texts`` (files of the configuration folder) had been written."""
    with tempfile.TemporaryDirectory(prefix="ocd-trial-") as temporary:
        copied = Path(temporary) / "config"
        _copy(folders.config, copied)
        there = Folders(copied, folders.data, folders.state, folders.runtime, folders.bin)
        for path, text in texts.items():
            target = copied / path.relative_to(folders.config)
            target.parent.mkdir(parents=True, exist_ok=True)
            # a link of the user's is followed when it is really written
            with contextlib.suppress(FileNotFoundError):
                target.unlink()
            target.write_text(text, encoding="utf-8", newline="")
        try:
            settings = load(there)
            found = check(there, settings, litellm_site(folders, settings))
        except ConfigError as error:
            found = error.findings
        return worst_first(_own_words(one, str(copied), str(folders.config)) for one in found)


def _copy(source: Path, target: Path) -> None:
    target.mkdir(mode=0o700)
    if not source.is_dir():
        return
    left = _MOST_BYTES
    for folder, _, names in os.walk(source):
        for name in names:
            path = Path(folder, name)
            with contextlib.suppress(OSError):
                left -= path.stat().st_size
                if left < 0:
                    return
                to = target / path.relative_to(source)
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, to)


def _own_words(finding: Finding, copied: str, config: str) -> Finding:
    """People know their own files' places, not those of the copy."""
    return replace(
        finding,
        file=finding.file.replace(copied, config),
        what=finding.what.replace(copied, config),
        fix=finding.fix.replace(copied, config),
        edits=(),
    )
