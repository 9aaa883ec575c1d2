"""One mechanical change to a YAML file. Standard library only."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

Where = tuple[str | int, ...]


class _Removed:
    def __repr__(self) -> str:
        return "REMOVED"


#: as a value: take the key or list item out
REMOVED: Any = _Removed()


@dataclass(frozen=True, slots=True)
class Edit:
    """Set the value at ``where`` in ``file`` (making the sections on the way), take it out (``REMOVED``),
    or add to the end of the list at ``where`` (``append``). Paths are those of the file itself, includes
    not merged."""

    file: Path
    where: Where
    value: Any
    append: bool = False
