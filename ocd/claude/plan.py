"""The exec plan: the daemon's answer to openclaude in a form that needs no parser.

NUL-terminated records, because NUL is the one byte that neither an argument nor the environment can hold:
``set NAME=VALUE``, ``unset NAME``, ``arg VALUE``, ``notice TEXT``; instead of these ``progress TEXT`` (HTTP
503: ask again) or ``problem EXIT TEXT`` (any other status). ``ocd/client/__main__.py`` reads it.
"""

from ocd.wire.messages import LaunchReply

CONTENT_TYPE = "text/x-ocd-exec"


def encode_plan(reply: LaunchReply) -> bytes:
    """The body for HTTP 200, or the progress record (for 503) when the reply is not ready.

    Raises ValueError for a name or value that the environment or an argument cannot hold.
    """
    if not reply.ready:
        return encode_progress(reply.progress)
    records = [_record("unset", _name(name)) for name in reply.unset]
    records += [_record("set", f"{_name(name)}={value}") for name, value in reply.set.items()]
    records += [_record("arg", value) for value in reply.args]
    records += [_record("notice", _told(text)) for text in reply.notices]
    return b"".join(records)


def encode_progress(text: str) -> bytes:
    """The body for HTTP 503: what the daemon is waiting for, one short phrase."""
    return _record("progress", _shown(text))


def encode_problem(exit_code: int, text: str) -> bytes:
    """The body for a refusal: the exit code (1 to 255) and the sentence for the person."""
    if not 0 < exit_code < 256:
        raise ValueError(f"no exit code: {exit_code}")
    return _record("problem", f"{exit_code} {_shown(text)}")


def _record(verb: str, value: str) -> bytes:
    if "\0" in value:
        raise ValueError(f"a NUL in a {verb} record")
    return f"{verb} {value}".encode("utf-8", "surrogateescape") + b"\0"


def _name(name: str) -> str:
    if not name or "=" in name:
        raise ValueError("no name of a variable")
    return name


def _told(text: str) -> str:
    """A notice; one in the three lines of an error keeps them, whatever else has line ends is on one."""
    first, *more = text.split("\n")
    if all(line.startswith(("  why:  ", "  next: ")) for line in more):
        return "\n".join(map(_shown, (first, *more)))
    return _shown(text)


def _shown(text: str) -> str:
    """Text for a terminal, on one line: it may quote a file of the user's, so control characters go."""
    return "".join(character if character.isprintable() else " " for character in text)
