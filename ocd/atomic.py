"""Writing a file, or a link, whole or not at all. Standard library only: anyone may import it.

A reader sees the old content or the new, also after a power cut; a full disk, a kill or a lost folder leaves what was
there and no second file. The new content is written beside the file under a name of its own, brought to the disk, and
renamed (rename(2)); then the folder is brought to the disk.
"""

import contextlib
import os
import stat

PRIVATE = 0o600


def replace(
    path: str | os.PathLike[str],
    content: bytes | str,
    *,
    mode: int | None = PRIVATE,
    follow: bool = False,
    durable: bool = True,
    times: tuple[int, int] | None = None,
) -> None:
    """Put ``content`` into ``path``, whether or not it exists. Raises OSError.

    ``mode`` None keeps the mode of what is there. With ``follow`` a symbolic link stays one, and the file that it leads
    to is replaced; else the link itself is. ``durable`` False spares the wait for the disk, for what can be made again.
    ``times``: access and modification (nanoseconds) that the file is to have.
    """
    target = os.path.realpath(path) if follow else os.fspath(path)
    temporary = _write_beside(target, content, _mode(target, mode), durable, times)
    try:
        os.replace(temporary, target)
    except BaseException:
        _remove(temporary)
        raise
    if durable:
        _sync_folder(target)


def link(path: str | os.PathLike[str], target: str) -> None:
    """Have ``path`` be a symbolic link to ``target``, whether or not one is there. Raises OSError."""
    temporary = _beside(os.fspath(path))
    os.symlink(target, temporary)
    try:
        os.replace(temporary, path)
    except BaseException:
        _remove(temporary)
        raise


def create(path: str | os.PathLike[str], content: bytes | str, *, mode: int = PRIVATE) -> bool:
    """Put ``content`` into ``path`` unless something is there by then; returns whether it was us. Raises OSError."""
    target = os.fspath(path)
    temporary = _write_beside(target, content, mode, True)
    try:
        # A link fails where a rename would replace: of two who try, one finds the other's whole file.
        os.link(temporary, target)
    except FileExistsError:
        return False
    finally:
        _remove(temporary)
    _sync_folder(target)
    return True


def _beside(target: str) -> str:
    folder, name = os.path.split(target)
    return os.path.join(folder, f".{name[:200]}.{os.urandom(4).hex()}")


def _write_beside(
    target: str, content: bytes | str, mode: int, durable: bool, times: tuple[int, int] | None = None
) -> str:
    temporary = _beside(target)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    # Private until it is whole: the wanted mode may let others read it.
    fd = os.open(temporary, flags, PRIVATE)
    try:
        try:
            rest = memoryview(content.encode() if isinstance(content, str) else content)
            while rest:
                rest = rest[os.write(fd, rest) :]
            os.fchmod(fd, mode)
            if times:
                os.utime(fd, ns=times)
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
    except BaseException:
        _remove(temporary)
        raise
    return temporary


def _mode(target: str, mode: int | None) -> int:
    if mode is not None:
        return mode
    try:
        return stat.S_IMODE(os.stat(target).st_mode)
    except OSError:
        return PRIVATE


def _remove(temporary: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(temporary)


def _sync_folder(target: str) -> None:
    # Some file systems cannot; the content is on the disk, and the name will be.
    with contextlib.suppress(OSError):
        fd = os.open(os.path.dirname(target) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
