"""What a revision of a proxy boots from."""

from dataclasses import dataclass
from pathlib import Path

from ocd.settings.schema import Settings


@dataclass(frozen=True)
class Config:
    """The snapshot of its files, and the settings (``settings_id``: their snapshot)."""

    revision: str
    path: Path
    origin: Path
    settings: Settings
    settings_id: str
