"""``occtl``: run one verb, and end with its exit code."""

import os
import sys

from ocd.errors import EX_OK, EX_OSERR, EX_USAGE, OcdError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    import click

#: 128 + SIGINT and 128 + SIGPIPE, as a shell reports a command that such a signal ended
EX_INTERRUPTED = 130
EX_BROKEN_PIPE = 141


def main(argv: "Sequence[str] | None" = None) -> int:
    """Run ``occtl`` with ``argv`` (default: the process's own arguments) and return the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    if args[:1] == ["statusline"] and (len(args) == 1 or (len(args) == 3 and args[1] == "--with")):
        # Claude Code waits for it after each message: no import but this one.
        from ocd.client import statusline

        return statusline.main(args[2] if len(args) == 3 else "")
    from ocd.ctl import screen

    screen.prepare_streams()
    try:
        code = _run(args)
        sys.stdout.flush()
        return code
    except (screen.ReaderGone, BrokenPipeError):
        # Whoever read us has enough. Python flushes once more at exit: give it somewhere to write to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EX_BROKEN_PIPE
    except KeyboardInterrupt:
        return EX_INTERRUPTED


def _run(args: list[str]) -> int:
    from ocd.ctl import quick, screen

    if quick.VARIABLE in os.environ:
        code = quick.complete()
        return _by_click(args) if code is None else code
    args, as_json, no_color = gathered(args)
    screen.forbid_color(no_color)
    try:
        code = quick.run(args)
        return _by_click(args) if code is None else code
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        found = OcdError(
            "The operating system refused",
            f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""),
            exit_code=EX_OSERR,
            code="os",
        )
    except OcdError as error:
        from ocd.client.failure import of_root

        found = of_root(error, os.environ)
    screen.show_error(found)
    if as_json:
        screen.out_json(screen.error_object(found))
    return found.exit_code


def gathered(args: list[str]) -> tuple[list[str], bool, bool]:
    """``args`` with what may stand anywhere in its place, whether --json is given, whether --no-color is.

    ``occtl --json status``, ``occtl -h config path`` and ``occtl help config path`` mean what one thinks they do.
    Behind ``--`` nothing is looked at.
    """
    end = args.index("--") if "--" in args else len(args)
    own, rest = args[:end], args[end:]
    no_color = "--no-color" in own
    as_json = "--json" in own
    if own[:1] == ["help"] and len(own) > 1 and own[1][:1] != "-" and own[1] != "exit-codes":
        own = [*own[1:], "--help"]
    if "-h" in own or "--help" in own:
        from ocd.ctl.words import COMMANDS

        words: list[str] = []
        for word in (one for one in own if one[:1] != "-"):
            if " ".join([*words, word]) not in COMMANDS and words:
                break
            words.append(word)
        return [*words, "--help"], as_json, no_color
    own = [one for one in own if one not in ("--json", "--no-color")]
    return [*own, *(["--json"] if as_json else []), *rest], as_json, no_color


def _by_click(args: list[str]) -> int:
    import click

    from ocd.ctl.app import cli

    try:
        result = cli.main(args=args, prog_name="occtl", standalone_mode=False)
        return result if isinstance(result, int) else EX_OK
    except click.exceptions.NoArgsIsHelpError as error:
        error.show(sys.stderr)
        return EX_USAGE
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.Abort:
        return EX_INTERRUPTED
    except click.ClickException as error:
        raise _of_click(error) from None


def _of_click(error: "click.ClickException") -> OcdError:
    """A wrong command line, said like every other error."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "occtl"
    usage = context.get_usage().partition(" ")[2].strip() if context is not None else ""
    return OcdError(
        error.format_message().strip().rstrip("."),
        f"the form is {' '.join(usage.split())}" if usage else "",
        f"Run `{command} -h`",
        exit_code=EX_USAGE,
        code="usage",
    )


if __name__ == "__main__":
    sys.exit(main())
