"""``openclaude --host ssh://[USER@]HOST[:PORT][/FOLDER] ARGUMENTS``: the session is on that machine, which runs its own
ocd and holds its own login. Nothing of this machine's goes there but the arguments and the terminal.
"""

import os
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

from ocd.errors import EX_OSERR, EX_UNAVAILABLE, EX_USAGE, OcdError

_PREFIX = b"ssh://"
_EXAMPLE = "Example: openclaude --host ssh://ada@devbox:2222/srv/project"
#: For sh, whatever shell the account has: many set no PATH with ~/.local/bin for a command that ssh gives them.
_THERE = (
    'cd -- "${1:-$HOME}" && shift && PATH="$PATH:$HOME/.local/bin" && export PATH && exec openclaude "$@"'
)


def split(arguments: list[bytes]) -> tuple[bytes, list[bytes]] | None:
    """The URL and the other arguments when the first one is our ``--host``, else None. Raises OcdError (exit 64).

    Ours is only one with an ``ssh://`` URL: another ``--host`` is Claude Code's.
    """
    name, equals, value = arguments[0].partition(b"=")
    if name != b"--host":
        return None
    rest = arguments[1:]
    if not equals:
        if not rest:
            raise OcdError("--host needs a value", "", _EXAMPLE, exit_code=EX_USAGE)
        value, rest = rest[0], rest[1:]
    return (value, rest) if value.startswith(_PREFIX) else None


def command(url: bytes, arguments: list[bytes], terminal: bool) -> list[bytes]:
    """What runs openclaude there, for exec. ``terminal``: give it one. Raises OcdError (exit 64)."""
    place, _, folder = url[len(_PREFIX) :].partition(b"/")
    user, at, machine = place.rpartition(b"@")
    host, colon, port = machine.rpartition(b":")
    if not colon or b"]" in port:
        host, port = machine, b""
    host = host[1:-1] if host[:1] == b"[" and host[-1:] == b"]" else host
    for text in (host, *([user] if at else [])):
        # A dash would make it an option of ssh's; ssh itself refuses what a shell would make something of.
        if not text or text[:1] == b"-" or any(byte <= 32 or byte == 127 for byte in text):
            raise _not_a_url(url)
    if port and not (port.isdigit() and 0 < int(port) < 65536):
        raise _not_a_url(url)
    # /~/project is below the home folder there, as git has it.
    path = b"/" + unquote_to_bytes(folder) if folder else b""
    path = path[3:] or b"." if path.startswith(b"/~/") else path
    if b"\0" in path:
        raise _not_a_url(url)
    words = [_THERE.encode(), b"openclaude", path, *arguments]
    said = b"exec sh -c " + b" ".join(b"'" + word.replace(b"'", b"'\\''") + b"'" for word in words)
    options = [b"-t"] if terminal else [b"-T"]
    options += [b"-p", port] if port else []
    options += [b"-l", user] if at else []
    return [b"ssh", *options, b"--", host, said]


def become(url: bytes, arguments: list[bytes], environ: Mapping[bytes, bytes], terminal: bool) -> int:
    """Become ssh. Raises OcdError when that is not possible."""
    words = command(url, arguments, terminal)
    try:
        os.execvpe(words[0], words, dict(environ))
    except FileNotFoundError:
        raise OcdError(
            "There is no ssh on your PATH",
            "",
            "Install OpenSSH's client",
            exit_code=EX_UNAVAILABLE,
            code="ssh-missing",
        ) from None
    except OSError as error:
        raise OcdError("ssh could not be started", error.strerror or "", exit_code=EX_OSERR) from None


def _not_a_url(url: bytes) -> OcdError:
    return OcdError(
        f"{url.decode('utf-8', 'replace')!r} names no machine",
        "it must be ssh://[USER@]HOST[:PORT][/FOLDER]",
        _EXAMPLE,
        exit_code=EX_USAGE,
    )
