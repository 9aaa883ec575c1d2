"""Where Claude Code is when the PATH does not lead to it: over ssh, in cron, in an editor's environment.

The one list of places, in the order in which they are tried. Source: Claude Code's setup page (native installer,
the older local install, npm), and where npm, Homebrew, Volta, Bun and nvm put a package's commands. No process is
started; npm's own configuration is read by hand (npm's documentation of ``prefix`` and ``.npmrc``).
"""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: what to do when there is none; needs no root on any distribution
ADVICE = (
    "Install it with: curl -fsSL https://claude.ai/install.sh | bash; or with npm:"
    " npm install -g --prefix ~/.local @anthropic-ai/claude-code. Elsewhere? Set OPENCLAUDE_CLAUDE to its path"
)
#: folders of the machine, after all that is the user's
SYSTEM = (b"/opt/homebrew/bin", b"/home/linuxbrew/.linuxbrew/bin", b"/usr/local/bin", b"/usr/bin")
_NPMRC_LIMIT = 1 << 16


def usual(environ: "Mapping[bytes, bytes]") -> "Iterator[bytes]":
    """Paths at which Claude Code's program may be, the likeliest first. Most of them do not exist."""
    home = environ.get(b"HOME") or os.fsencode(os.path.expanduser("~"))
    yield home + b"/.local/bin/claude"
    yield home + b"/.claude/local/claude"
    # a local install whose little start script is gone
    yield home + b"/.claude/local/node_modules/.bin/claude"
    for prefix in _npm_prefixes(environ, home):
        yield prefix + b"/bin/claude"
    yield home + b"/.npm-global/bin/claude"
    yield home + b"/.volta/bin/claude"
    yield home + b"/.bun/bin/claude"
    yield from _nvm(environ.get(b"NVM_DIR") or home + b"/.nvm")
    for folder in SYSTEM:
        yield folder + b"/claude"


def _npm_prefixes(environ: "Mapping[bytes, bytes]", home: bytes) -> "Iterator[bytes]":
    for name in (b"NPM_CONFIG_PREFIX", b"npm_config_prefix", b"PREFIX"):
        if environ.get(name, b"").startswith(b"/"):
            yield environ[name]
    path = environ.get(b"NPM_CONFIG_USERCONFIG") or environ.get(b"npm_config_userconfig") or home + b"/.npmrc"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return
    try:
        text = os.read(descriptor, _NPMRC_LIMIT)
    except OSError:
        return
    finally:
        os.close(descriptor)
    for line in text.splitlines():
        name, equals, value = line.partition(b"=")
        if equals and name.strip() == b"prefix":
            value = value.strip().strip(b"\"'").replace(b"${HOME}", home)
            if value[:2] == b"~/":
                value = home + value[1:]
            if value[:1] == b"/":
                yield value


def _nvm(folder: bytes) -> "Iterator[bytes]":
    """nvm has a folder for each Node.js; a shell that did not load it has none of them on the PATH."""
    versions = folder + b"/versions/node"
    try:
        names = os.listdir(versions)
    except (OSError, ValueError):
        return
    for name in sorted(names, key=_number, reverse=True):
        yield versions + b"/" + name + b"/bin/claude"


def _number(name: bytes) -> list[int]:
    return [int(part) if part.isdigit() else -1 for part in name.lstrip(b"v").split(b".")]
