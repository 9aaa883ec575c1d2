"""Arguments and options that several verbs share, and what a shell completes for them."""

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

F = TypeVar("F", bound=Callable[..., Any])

#: the proxies of this product; known without a daemon, so that completion and spelling mistakes need none
PROXIES = {"main": "Claude's plan, to Anthropic", "bedrock": "AWS credentials, to Bedrock"}

#: the states of a proxy, ``ocd.core.state.State``; spelled out, because completion must be quick
STATES = (
    "disabled",
    "stopped",
    "draining",
    "idle",
    "starting",
    "ready",
    "blocked",
    "crash-loop",
    "failed",
)


class ProxyName(click.ParamType[str]):
    """A proxy's name. The daemon decides which exist; this completes those that are known."""

    name = "name"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [
            CompletionItem(name, help=text) for name, text in PROXIES.items() if name.startswith(incomplete)
        ]


class LogName(ProxyName):
    """A proxy's name, or the daemon's own log."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        daemon = [CompletionItem("daemon", help="its own log")] if "daemon".startswith(incomplete) else []
        return [*super().shell_complete(ctx, param, incomplete), *daemon]


class KeyName(click.ParamType[str]):
    """A key of ocd.toml, by its dotted path."""

    name = "key"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from ocd.ctl.words import KEYS

        return [CompletionItem(key) for key in KEYS if key.startswith(incomplete)]


class ModelName(click.ParamType[str]):
    """A slot or a model group; those of the files are completed, without a daemon."""

    name = "model"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        # Files that cannot be read complete nothing; the command itself says why.
        with contextlib.suppress(Exception):
            from ocd.ctl.stack import load_stack
            from ocd.stack.stack import names

            slots = [CompletionItem(slot, help="slot") for slot in ("opus", "sonnet", "haiku", "fable")]
            groups = [CompletionItem(name, help="model group") for name in names(load_stack().main)]
            return [one for one in (*slots, *groups) if str(one.value).startswith(incomplete)]
        return []


def proxy_argument(function: F) -> F:
    """The optional argument NAME."""
    return click.argument("name", required=False, type=ProxyName())(function)


def json_option(function: F) -> F:
    """``--json``: one document, or with a stream one object a line."""
    return click.option("as_json", "--json", is_flag=True, help="Print JSON for programs.")(function)


def examples(*lines: str) -> str:
    """An epilog of example commands that click does not re-wrap."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
