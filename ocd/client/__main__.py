"""The command ``openclaude``: ask the daemon for the exec plan, then become Claude Code (same pid, same
terminal).

Every import here is paid at every start; anything rare (starting the daemon, errors in JSON) is imported
where it happens. The exec plan is made of NUL-terminated records, so that no JSON parser is needed;
``ocd/claude/plan.py`` writes it.
"""

import os
import sys
import time

from ocd import API_VERSION
from ocd.client import arguments, asking
from ocd.client.variables import NAME_ONLY, WITH_VALUE
from ocd.errors import EX_OSERR, EX_PROTOCOL, EX_UNAVAILABLE, EX_USAGE, OcdError

try:
    from _json import encode_basestring_ascii as _quoted
except ImportError:  # another Python implementation
    from json.encoder import encode_basestring_ascii as _quoted

try:
    from _signal import SIG_DFL, SIGPIPE, SIGXFSZ  # type: ignore[import-not-found]
    from _signal import signal as _signal
except ImportError:  # another Python implementation
    from signal import SIG_DFL, SIGPIPE, SIGXFSZ
    from signal import signal as _signal

_IGNORED_BY_PYTHON = (SIGPIPE, SIGXFSZ)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ocd.client.start import Starting

ACCEPT = "text/x-ocd-exec"

#: Alone on the command line these need no proxy, and must work when the daemon does not.
_NO_PROXY_NEEDED = ([b"--help"], [b"-h"], [b"--version"], [b"-v"], [b"-V"])
#: Marks the process that is becoming Claude Code: a `claude` that leads back here would go round for ever.
_GUARD = b"OCD_SESSION_PID"
#: What there is to say to the person, for the hook in the session's settings (ocd/claude/notices.py).
_NOTICE = b"OCD_NOTICE"
_INLINE_LIMIT = 1 << 20


def main(argv: "list[str] | None" = None) -> int:
    """Become Claude Code. Returns an exit code only when that is not possible; the reason is on stderr."""
    line = _ProgressLine()
    try:
        return _run([os.fsencode(argument) for argument in (sys.argv[1:] if argv is None else argv)], line)
    except OcdError as error:
        line.erase()
        if "SUDO_USER" in os.environ:
            from ocd.client.failure import of_root

            error = of_root(error, os.environ)
        _complain(error)
        return error.exit_code
    except KeyboardInterrupt:
        line.erase()
        return 130


def _run(given: list[bytes], line: "_ProgressLine") -> int:
    environ = dict(os.environb)
    if given and given[0][:6] == b"--host":
        from ocd.client import remote

        there = remote.split(given)
        if there is not None:
            for number in _IGNORED_BY_PYTHON:
                _signal(number, SIG_DFL)
            return remote.become(*there, environ, _on_terminal() and os.isatty(0))
    program: list[bytes] = []
    if given and given[0][:1] == b"/":
        from ocd.client import wrapper

        program, given = wrapper.split(given, _is_launcher)
    if not program:
        program = [find_claude(environ)]
        if environ.get(_GUARD) == str(os.getpid()).encode():
            raise OcdError(
                f"{os.fsdecode(program[0])} leads back to openclaude",
                "",
                "Set OPENCLAUDE_CLAUDE to Claude Code's own file",
                exit_code=EX_UNAVAILABLE,
                code="claude-loop",
            )
    if given in _NO_PROXY_NEEDED:
        environ[_GUARD] = str(os.getpid()).encode()
        return _become(program, given, environ)
    rest, settings, options = arguments.split(given)
    notices: list[bytes] = []
    if "account" in options:
        from ocd.client import account

        said = account.choose(options.pop("account"), environ)
        if said:
            notices.append(said.encode())
            _say(said)
    # Most of what may stand there needs no table: nothing, a short option, a prompt of several words.
    if rest and rest[0][:1] != b"/" and b" " not in rest[0]:
        from ocd.client import verbs

        where, said, refusal = verbs.place(rest)
        if refusal is not None:
            raise OcdError(*refusal, exit_code=EX_UNAVAILABLE, code="not-behind-a-proxy")
        if said:
            notices.append(said.encode())
            _say(said)
        if where != "before":
            if settings is not None and where == "plain":
                rest = [b"--settings", settings, *rest]
            return _become(program, rest, environ)
    environ[_GUARD] = str(os.getpid()).encode()
    first: list[bytes] = []
    for verb, value in _ask_until_ready(environ, settings, options, line):
        if verb == b"arg":
            first.append(value)
        elif verb == b"unset":
            _keep_own(environ, value)
            environ.pop(value, None)
        elif verb == b"set":
            name, _, value = value.partition(b"=")
            _keep_own(environ, name)
            environ[name] = value
        elif verb == b"notice":
            notices.append(value)
            _say(value.decode("utf-8", "replace"))
        else:
            raise _strange_answer()
    environ.pop(_NOTICE, None)
    if notices and _on_terminal():
        environ[_NOTICE] = message(notices)
    return _become(program, first + rest, environ)


def _keep_own(environ: dict[bytes, bytes], name: bytes) -> None:
    """What the user's own programs are to see again in Claude Code's Bash calls (``ocd/claude/environment.py``)."""
    own = environ.get(name)
    if own is None:
        environ.pop(b"OCD_OWN_" + name, None)
    else:
        environ[b"OCD_OWN_" + name] = own


def _become(program: list[bytes], given: list[bytes], environ: dict[bytes, bytes]) -> int:
    # Python ignores these two for itself, and an ignored signal stays ignored over exec.
    for number in _IGNORED_BY_PYTHON:
        _signal(number, SIG_DFL)
    try:
        os.execve(program[0], [*program, *given], environ)
    except OSError as error:
        raise OcdError(
            f"Claude Code could not be started from {os.fsdecode(program[0])}",
            error.strerror or "",
            "Run it by itself, or set OPENCLAUDE_CLAUDE to another one",
            exit_code=EX_OSERR,
            code="exec",
        ) from None


def message(notices: list[bytes]) -> bytes:
    """The notices as a hook of Claude Code's prints them: its terminal covers what stands on stderr."""
    lines = "\n".join(f"openclaude: {text.decode('utf-8', 'replace')}" for text in notices)
    return f'{{"systemMessage":{_quoted(lines)}}}'.encode()


def _on_terminal() -> bool:
    try:
        return os.isatty(1)
    except OSError:
        return False


# ---- finding Claude Code


def find_claude(environ: "Mapping[bytes, bytes]") -> bytes:
    """The path of Claude Code: ``OPENCLAUDE_CLAUDE``, else the first ``claude`` on the PATH that is not
    openclaude, else one in its usual places (``ocd.client.places``).

    Raises OcdError (exit 69) when there is none.
    """
    explicit = environ.get(b"OPENCLAUDE_CLAUDE", b"")
    if explicit:
        if _is_program(explicit):
            return explicit
        raise OcdError(
            f"OPENCLAUDE_CLAUDE={os.fsdecode(explicit)} cannot be used",
            "it is openclaude itself"
            if os.path.isfile(explicit) and _is_launcher(explicit)
            else "there is no executable file of that name",
            "Correct it, or unset it to use the claude on your PATH",
            exit_code=EX_UNAVAILABLE,
            code="claude-missing",
        )
    for folder in environ.get(b"PATH", os.fsencode(os.defpath)).split(b":"):
        path = os.path.join(folder or b".", b"claude")
        if _is_program(path):
            return path
    from ocd.client import places

    for path in places.usual(environ):
        if _is_program(path):
            return path
    raise OcdError(
        "Claude Code was not found",
        "there is no claude on your PATH, nor in one of its usual places",
        places.ADVICE,
        exit_code=EX_UNAVAILABLE,
        code="claude-missing",
    )


def _is_program(path: bytes) -> bool:
    try:
        return os.path.isfile(path) and os.access(path, os.X_OK) and not _is_launcher(path)
    except (OSError, ValueError):
        return False


def _is_launcher(path: bytes) -> bool:
    """Whether this is openclaude: the file that runs now (links followed), or a copy of its launcher."""
    try:
        if os.path.samefile(path, os.fsencode(sys.argv[0])):
            return True
    except OSError:
        pass
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # executable but not readable: not ours
        return False
    try:
        start = os.read(descriptor, 1024)
    finally:
        os.close(descriptor)
    return start.startswith(b"#!") and b"ocd.client" in start


# ---- asking the daemon


def _ask_until_ready(
    environ: dict[bytes, bytes], settings: bytes | None, options: dict[str, bytes], line: "_ProgressLine"
) -> list[tuple[bytes, bytes]]:
    limit = _start_timeout(environ)
    deadline = time.monotonic() + limit
    reason = "the daemon does not answer"
    starting: Starting | None = None
    wait = 1.0 if line.shown else 5.0
    body = request_body(environ, settings, options, wait)
    try:
        while True:
            began = time.monotonic()
            try:
                connection = asking.connect(wait + 10)
                if connection is None:
                    if starting is None:
                        from ocd.client import start

                        starting = start.Starting()
                    starting.poll()
                    reason = "the daemon is starting"
                else:
                    status, kind, answer = asking.post(connection, "/v1/launch", ACCEPT, body)
                    if status == 200 and kind.startswith(ACCEPT):
                        line.erase()
                        return decode(answer)
                    reason = _not_ready(status, kind, answer)
            except OSError:
                # The daemon is being replaced, or is too busy to accept: its socket stays, so ask again.
                reason = "the daemon does not answer"
            now = time.monotonic()
            if now >= deadline:
                raise OcdError(
                    f"Not ready after {limit:g} seconds",
                    reason,
                    "Run: occtl status",
                    exit_code=EX_UNAVAILABLE,
                    code="start-timeout",
                )
            line.show(reason)
            # An answer that was held back has already taken its time; one that came at once must not make a
            # loop.
            if now - began < 0.05:
                time.sleep(min(0.05, deadline - now))
    finally:
        if starting is not None:
            starting.close()


def _start_timeout(environ: dict[bytes, bytes]) -> float:
    given = environ.get(b"OPENCLAUDE_START_TIMEOUT", b"") or b"120"
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e6:
        raise OcdError(
            "OPENCLAUDE_START_TIMEOUT is not a number of seconds",
            "",
            "Example: OPENCLAUDE_START_TIMEOUT=120",
            exit_code=EX_USAGE,
        )
    return seconds


def request_body(
    environ: "Mapping[bytes, bytes]", settings: bytes | None, options: dict[str, bytes], wait: float
) -> bytes:
    """The LaunchRequest (``ocd/wire/messages.py``) as JSON. No credential's value is ever in it."""
    fields = [_field(name, environ[name]) for name in WITH_VALUE if environ.get(name)]
    fields += [_field(name, b"") for name in NAME_ONLY if environ.get(name)]
    profile = options.get("profile", b"")
    models = [_field(name.encode(), value) for name, value in options.items() if name != "profile"]
    try:
        cwd = os.getcwdb()
    except OSError:  # the folder was removed under us
        cwd = b"/"
    text = _settings_text(settings)
    # A daemon of a former version knows no profile, and need not where none is asked for.
    more = f'"profile":{_text(profile)},' if profile else ""
    return (
        f'{{"pid":{os.getpid()},"cwd":{_text(cwd)},"env":{{{",".join(fields)}}},'
        f'"settings":{"null" if text is None else _quoted(text)},"models":{{{",".join(models)}}},{more}'
        f'"wait":{wait},"terminal":{"true" if _on_terminal() else "false"},"client_api":{API_VERSION}}}'
    ).encode()


def _text(value: bytes) -> str:
    # What is not UTF-8 cannot be in JSON; these values are only looked at, never handed on to Claude Code.
    return _quoted(value.decode("utf-8", "replace"))


def _field(name: bytes, value: bytes) -> str:
    return f"{_quoted(name.decode())}:{_text(value)}"


def _settings_text(value: bytes | None) -> str | None:
    if value is None:
        return None
    if value.startswith((b"/dev/", b"/proc/")):
        # `--settings <(command)`: a pipe of this process, which the daemon could not open.
        try:
            with open(value, "rb") as pipe:
                value = pipe.read(_INLINE_LIMIT + 1)
        except OSError as error:
            raise OcdError(
                "The file given with --settings cannot be read", error.strerror or "", exit_code=EX_USAGE
            ) from None
        if len(value) > _INLINE_LIMIT:
            raise OcdError("The settings given with --settings are larger than 1 MiB", exit_code=EX_USAGE)
        value = value.strip() or b"{}"
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise OcdError("The value of --settings is not UTF-8", exit_code=EX_USAGE) from None


def decode(answer: bytes) -> list[tuple[bytes, bytes]]:
    """The records of an exec plan, (verb, value) each. Raises OcdError (exit 76) when it is not one."""
    *records, end = answer.split(b"\0")
    if end:
        raise _strange_answer()
    pairs = []
    for record in records:
        verb, space, value = record.partition(b" ")
        if not space:
            raise _strange_answer()
        pairs.append((verb, value))
    return pairs


def _not_ready(status: int, kind: str, answer: bytes) -> str:
    """What the daemon is waiting for; raises OcdError when it refuses."""
    if not kind.startswith(ACCEPT):
        from ocd.client.failure import explain

        raise explain(status, answer)
    for verb, value in decode(answer):
        text = value.decode("utf-8", "replace")
        if verb == b"progress" and status == 503:
            return text
        if verb == b"problem":
            code, _, sentence = text.partition(" ")
            if code.isdigit():
                raise OcdError(sentence, exit_code=int(code), code="refused")
    raise _strange_answer()


def _strange_answer() -> OcdError:
    return OcdError(
        "The daemon's answer was not understood",
        "it is probably of another version than openclaude",
        "Run: occtl version; then restart the daemon with: occtl stop && occtl start",
        exit_code=EX_PROTOCOL,
        code="protocol",
    )


# ---- what people see


def _say(text: str) -> None:
    _write(f"openclaude: {text}\n")


def _complain(error: OcdError) -> None:
    """What, why and what next, as ``occtl`` says it; the daemon's own sentence has all of it on one line."""
    if not error.why and not error.next_step:
        _say(error.sentence())
        return
    why = f"  why:  {error.why}\n" if error.why else ""
    step = f"  next: {error.next_step}\n" if error.next_step else ""
    _write(f"openclaude: {error.what}\n{why}{step}")


def _write(text: str) -> None:
    try:
        os.write(2, text.encode("utf-8", "replace"))
    except OSError:  # nobody listens; nor is there anybody to tell
        return


class _ProgressLine:
    """One line on a terminal, rewritten, and gone before Claude Code draws. Nothing on a pipe."""

    def __init__(self) -> None:
        try:
            self.shown = os.isatty(2)
        except OSError:
            self.shown = False
        self._text = ""

    def show(self, text: str) -> None:
        if not self.shown or text == self._text:
            return
        self.erase()
        try:
            width = os.get_terminal_size(2).columns or 80
        except OSError:
            width = 80
        self._text = text
        plain = f"openclaude: {text}"[: max(width - 1, 10)]
        dim = not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
        _write(f"\r\x1b[2m{plain}\x1b[0m" if dim else f"\r{plain}")
        self._drawn = len(plain)

    def erase(self) -> None:
        if self._text:
            _write("\r" + " " * self._drawn + "\r")
            self._text = ""


if __name__ == "__main__":
    sys.exit(main())
