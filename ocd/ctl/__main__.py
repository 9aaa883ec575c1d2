"""``occtl``: run one verb, and end with its exit code."""

import io
import os
import sys

from ocd.errors import EX_OK, EX_OSERR, EX_USAGE, OcdError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: 128 + SIGINT and 128 + SIGPIPE, as a shell reports a command that such a signal ended
EX_INTERRUPTED = 130
EX_BROKEN_PIPE = 141


def main(argv: "Sequence[str] | None" = None) -> int:
    """Run ``occtl`` with ``argv`` (default: the process's own arguments) and return the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    if args == ["statusline"]:
        # Claude Code waits for it after each message: no import but this one.
        from ocd.client import statusline

        return statusline.main()
    from ocd.ctl.screen import ReaderGone

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a character must not cost the message.
            stream.reconfigure(errors="replace")
    try:
        code = _run(args)
        sys.stdout.flush()
        return code
    except (ReaderGone, BrokenPipeError):
        # Whoever read us has enough. Python flushes once more at exit: give it somewhere to write to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EX_BROKEN_PIPE
    except KeyboardInterrupt:
        return EX_INTERRUPTED


def _run(args: list[str]) -> int:
    import click

    from ocd.ctl import screen
    from ocd.ctl.app import cli

    screen.forbid_color(False)
    as_json = "--json" in args[: args.index("--")] if "--" in args else "--json" in args
    try:
        result = cli.main(args=args, prog_name="occtl", standalone_mode=False)
        return result if isinstance(result, int) else EX_OK
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.Abort:
        return EX_INTERRUPTED
    except click.ClickException as error:
        error.show(sys.stderr)
        if as_json:
            said = OcdError(error.format_message(), exit_code=EX_USAGE, code="usage")
            screen.out_json(screen.error_object(said))
        return EX_USAGE
    except OSError as error:
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


if __name__ == "__main__":
    sys.exit(main())
