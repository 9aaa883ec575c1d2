"""Which of the arguments are ours. Everything else goes to Claude Code as it came, byte for byte.

Ours are the user's own ``--settings`` (Claude Code takes only one, so the daemon merges theirs into its own)
the model options: ``--model litellm@NAME`` or ``ll@NAME``, ``--default-provider litellm``,
``--model-opus|-sonnet|-haiku litellm@NAME``, and ``--account NAME``, ``--profile NAME``. Nothing after a ``--`` is
looked at, and for the last two nothing after ``mcp``: an MCP server's command may have options of these names.
"""

from ocd.errors import EX_USAGE, OcdError

_OWN = {
    b"--model-opus": "opus",
    b"--model-sonnet": "sonnet",
    b"--model-haiku": "haiku",
    b"--default-provider": "default-provider",
}
_NAMED = {b"--account": "account", b"--profile": "profile"}
_SHARED = (b"--settings", b"--model")


def _is_litellm(value: bytes) -> bool:
    return value.startswith((b"litellm@", b"ll@"))


def split(arguments: list[bytes]) -> tuple[list[bytes], bytes | None, dict[str, bytes]]:
    """The arguments for Claude Code, the user's ``--settings`` value, and our own options by name.

    The last ``--model`` counts, as it does in Claude Code: if it is ours, earlier ones are superseded and go
    too. Raises OcdError (exit 64) when one of our own options has no value.
    """
    rest: list[list[bytes]] = []
    settings: bytes | None = None
    options: dict[str, bytes] = {}
    chosen: list[tuple[int, bytes]] = []
    count = len(arguments)
    at = 0
    while at < count:
        argument = arguments[at]
        if argument == b"--":
            rest.append(arguments[at:])
            break
        name, equals, value = argument.partition(b"=")
        named = name in _NAMED and [b"mcp"] not in rest
        if name not in _OWN and name not in _SHARED and not named:
            rest.append([argument])
            at += 1
            continue
        whole = [argument]
        at += 1
        if not equals:
            if at == count:
                if name in _OWN or named:
                    option = name.decode()
                    example = "work" if named else "litellm@NAME"
                    raise OcdError(
                        f"{option} needs a value", "", f"Example: {option} {example}", exit_code=EX_USAGE
                    )
                rest.append(whole)  # Claude Code has its own words for this
                break
            value = arguments[at]
            whole.append(value)
            at += 1
        if name == b"--settings":
            settings = value
        elif name == b"--model":
            chosen.append((len(rest), value))
            rest.append(whole)
        else:
            options[_NAMED[name] if named else _OWN[name]] = value
    if chosen:
        everything = options.get("default-provider") == b"litellm"
        last = chosen[-1][1]
        if everything or _is_litellm(last):
            options["model"] = last
            dropped = {index for index, _ in chosen}
        else:
            dropped = {index for index, value in chosen if _is_litellm(value)}
        rest = [whole for index, whole in enumerate(rest) if index not in dropped]
    return [argument for whole in rest for argument in whole], settings, options
