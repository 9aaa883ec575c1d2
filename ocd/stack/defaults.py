"""The configuration that a new user starts with. ``python -m ocd.stack.defaults`` writes what is missing."""

import os
import secrets
from importlib import resources
from pathlib import Path

from ocd.errors import EX_CANTCREAT, OcdError
from ocd.settings.folders import Folders, private_folder

NAMES = ("ocd.toml", "litellm.yaml", "litellm-bedrock.yaml")


def template(name: str) -> str:
    """The text of one of the shipped files (``NAMES``)."""
    return (resources.files("ocd.stack") / "templates" / name).read_text(encoding="utf-8")


def write_defaults(folders: Folders) -> list[Path]:
    """Write those of the three files that are missing (0600) and return them; what exists is left alone.

    Raises OcdError when the folder or a file cannot be written (exit 73, 77).
    """
    private_folder(folders.config)
    written = []
    for name in NAMES:
        path = folders.config / name
        # lexists: a dangling link is somebody's intention too
        if not os.path.lexists(path) and write_new(path, template(name)):
            written.append(path)
    return written


def write_new(path: Path, text: str) -> bool:
    """Write ``path`` whole or not at all (0600); False when it exists by now. Raises OcdError, exit 73."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)
        finally:
            os.unlink(temporary)
    except FileExistsError:
        return False
    except OSError as error:
        raise OcdError(
            f"Cannot write {path}",
            error.strerror or "",
            "Free some space, or make the folder writable",
            exit_code=EX_CANTCREAT,
            code="file-not-written",
        ) from None
    return True


if __name__ == "__main__":
    import sys

    try:
        for written_path in write_defaults(Folders.find()):
            print(written_path)
    except OcdError as problem:
        print(problem.sentence(), file=sys.stderr)
        sys.exit(problem.exit_code)
