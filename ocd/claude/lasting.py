"""The overlay files that stay: one for each configuration of a session, whichever processes use it.

Claude Code starts a background session's process again hours or days later (after a rest, an update, a reboot), by
itself and with the same ``--settings PATH`` (code.claude.com/docs/en/agent-view): the file has to be there then, and
to say what is true then. So a file is named after what the *person* chose (the settings they gave, their model
options, their variables, the project's model, their config folder), never after the port, the key or the slots:
when those change the file of the same name is written anew in place, from the recipe beside it. It goes when no
process names it in its arguments and no saved session of Claude Code does.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ocd import atomic
from ocd.claude.variables import WITH_VALUE
from ocd.errors import EX_CANTCREAT, EX_NOPERM, OcdError
from ocd.wire.messages import LaunchRequest

#: a file that a launch was given so lately (seconds) stays: its process may not name it yet
GRACE = 600.0
#: a recipe or a saved session that is larger (bytes) is not looked into
_LARGEST = 4 << 20
_NAME = re.compile(r"^overlay-[0-9a-f]{16}\.json$")


@dataclass(frozen=True)
class Recipe:
    """What a person chose for a session. It may hold secrets of theirs, as the overlay itself does: 0600."""

    env: dict[str, str] = field(repr=False)
    models: dict[str, str]
    given: dict[str, Any] | None = field(repr=False)
    #: the model that the project chooses, None: none
    model: Any = None
    #: a person looks at its terminal
    terminal: bool = False
    #: what a profile chose, by name (``ocd.claude.profiles``); of a project's file what it said when it was trusted
    profile: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def of(
        request: LaunchRequest,
        env: Mapping[str, str],
        given: Any,
        model: Any,
        profile: Mapping[str, str] | None = None,
    ) -> "Recipe":
        """``env``: the variables of the launch, its config folder already decided."""
        kept = {name: env[name] for name in WITH_VALUE if env.get(name) and name != "OPENCLAUDE_VERBOSE"}
        if kept.get("CLAUDE_CONFIG_DIR"):
            kept["CLAUDE_CONFIG_DIR"] = os.path.join(request.cwd, kept["CLAUDE_CONFIG_DIR"])
        return Recipe(kept, dict(request.models), given, model, request.terminal, dict(profile or {}))

    @property
    def name(self) -> str:
        """The overlay's file name: the same choices have the same one."""
        said = asdict(self)
        if not self.profile:
            # Files of former versions keep their names: a session that rests may have one of these.
            del said["profile"]
        text = json.dumps(said, sort_keys=True)
        return f"overlay-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}.json"

    def request(self) -> LaunchRequest:
        """The launch again, without its process."""
        return LaunchRequest(pid=0, cwd="/", env=self.env, models=self.models, terminal=self.terminal)


def write(folder: str, recipe: Recipe, settings: Mapping[str, Any], script: str = "") -> str:
    """Write a session's overlay, its script and its recipe (0600, in one step each) and return the overlay's path.

    The folder is made if need be (0700). A file that says the same already is only marked as used now.
    Raises OcdError: exit 77 when the folder is not ours alone, 73 when the file cannot be written.
    """
    path = os.path.join(folder, recipe.name)
    try:
        own_folder(folder)
        replace(_recipe_of(path), json.dumps(asdict(recipe)).encode())
        replace(script_of(path), script.encode())
        replace(path, json.dumps(settings, indent=1).encode())
    except OSError as error:
        raise OcdError(
            f"The session's settings cannot be written to {folder}",
            error.strerror or "",
            "Check space and permissions",
            exit_code=EX_CANTCREAT,
            code="overlay",
        ) from None
    return path


def recipes(folder: str) -> dict[str, Recipe]:
    """Overlay path → recipe, of all that are there and can be read."""
    found = {}
    for path in _overlays(folder):
        with contextlib.suppress(OSError, ValueError, TypeError):
            found[path] = Recipe(**json.loads(read_small(_recipe_of(path))))
    return found


def rewrite(folder: str, build: Callable[[Recipe], tuple[Mapping[str, Any], str]]) -> tuple[int, list[str]]:
    """Write every overlay anew from its recipe; returns how many changed and what could not be, a sentence each.

    One that cannot be made any more (a model that main has lost) or written stays as it is.
    """
    changed, trouble = 0, []
    for path, recipe in recipes(folder).items():
        try:
            settings, script = build(recipe)
            replace(script_of(path), script.encode(), keep_time=True)
            changed += replace(path, json.dumps(settings, indent=1).encode(), keep_time=True)
        except OcdError as error:
            trouble.append(f"{os.path.basename(path)}: {error.sentence()}")
        except OSError as error:
            trouble.append(f"{os.path.basename(path)}: {error.strerror}")
    return changed, trouble


def prune(folder: str, arguments: Callable[[], Iterable[str]], config_folders: Iterable[Path]) -> list[str]:
    """Remove the overlays that nobody names any more; returns their names.

    ``arguments``: the command lines of this user's processes, asked for only when there is something to decide.
    ``config_folders``: Claude Code's, whose saved sessions (``jobs/*/state.json``) count; where one cannot be read
    nothing is removed.
    """
    now = time.time()
    old = []
    for path in _overlays(folder):
        with contextlib.suppress(OSError):
            if now - os.stat(path).st_mtime > GRACE:
                old.append(path)
    if not old:
        return []
    names = {os.path.basename(path): path for path in old}
    try:
        for content in _saved(config_folders):
            names = {name: path for name, path in names.items() if name.encode() not in content}
    except OSError:
        return []
    if names:
        for line in arguments():
            names = {name: path for name, path in names.items() if name not in line}
    for path in names.values():
        for one in (path, script_of(path), _recipe_of(path)):
            with contextlib.suppress(OSError):
                os.unlink(one)
    return list(names)


def _saved(folders: Iterable[Path]) -> Iterable[bytes]:
    """What Claude Code keeps of its background sessions. Raises OSError for what is there and cannot be read."""
    for folder in dict.fromkeys(folders):
        try:
            jobs = list((folder / "jobs").iterdir())
        except (FileNotFoundError, NotADirectoryError):
            continue
        for job in jobs:
            try:
                yield read_small(str(job / "state.json"))
            except (FileNotFoundError, NotADirectoryError):
                continue


def _overlays(folder: str) -> list[str]:
    try:
        return sorted(os.path.join(folder, name) for name in os.listdir(folder) if _NAME.match(name))
    except OSError:
        return []


def script_of(path: str) -> str:
    """The script beside an overlay (``ocd.claude.environment``)."""
    return path.removesuffix(".json") + ".sh"


def _recipe_of(path: str) -> str:
    return path.removesuffix(".json") + ".recipe"


def read_small(path: str) -> bytes:
    """A plain file's content; never waits, never follows a link in its place. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode) or os.fstat(fd).st_size > _LARGEST:
            raise OSError(errno.EINVAL, "it is not a file of a sensible size")
        return file.read(_LARGEST)


def replace(path: str, content: bytes, keep_time: bool = False) -> bool:
    """Whether the file says something else now. Never half a file, never through a link in its place."""
    with contextlib.suppress(OSError):
        if read_small(path) == content and not stat.S_IMODE(os.lstat(path).st_mode) & 0o077:
            if not keep_time:
                os.utime(path)
            return False
    times = None
    if keep_time:
        with contextlib.suppress(OSError):
            found = os.lstat(path)
            times = (found.st_atime_ns, found.st_mtime_ns)
    # It is to be whole after a power cut: a session that is restored at log-in reads it.
    atomic.replace(path, content, times=times)
    return True


def own_folder(folder: str) -> None:
    """Make the folder, or see that it is ours alone (0700). Raises OcdError (exit 77), OSError."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    found = os.lstat(folder)
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
        raise OcdError(
            f"The folder {folder} belongs to somebody else",
            "session settings hold a key",
            "Remove it, or set XDG_STATE_HOME to a folder of your own",
            exit_code=EX_NOPERM,
            code="foreign-folder",
        )
    if found.st_mode & 0o077:
        os.chmod(folder, 0o700)
