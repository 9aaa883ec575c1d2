"""Ways to start Claude Code where ``--settings FILE`` may not stand before everything else.

The one table of them. Whatever is not in it is started as ``claude --settings FILE ARGUMENTS``: prompts, options,
``mcp``, ``plugin``, ``doctor``, ``agents``, ``auto-mode``, ``import``, and verbs that do not exist yet.

Source: the start of the program and ``--help`` of Claude Code 2.1.197 and 2.1.332, each word run with and without
``--settings`` in front. Both look for the words of FIRST at the first place only: behind ``--settings FILE`` 2.1.197
takes all of them, and 2.1.332 ``daemon``, for a prompt. ``python -m tests.client.verbs CLAUDE`` names what a client
has and nobody has classified.
"""

#: Only as the very first argument, and without settings: they manage what runs already (a background session keeps
#: the ``--settings`` that it was started with), or are how Claude Code starts its own processes.
FIRST = frozenset(
    (
        b"attach",
        b"daemon",
        b"kill",
        b"logs",
        b"respawn",
        b"rm",
        b"stop",
        b"self-hosted-agent-proxy",
        b"self-hosted-runner",
        b"--bg-pty-host",
        b"--bg-spare",
        b"--check-against-schema",
        b"--chrome-native-host",
        b"--claude-in-chrome-mcp",
        b"--computer-use-mcp",
        b"--daemon-worker",
        b"--eval-mock-server",
        b"--gh-standin",
        b"--preload",
        b"--update",
        b"--upgrade",
    )
)
#: No conversation: they are to work when the proxies do not, and see the login as `claude` does.
PLAIN = frozenset(
    (
        b"auth",
        b"gateway",
        b"install",
        b"purge",
        b"setup-token",
        b"update",
        b"upgrade",
    )
)
#: Remote Control: `claude` alone takes it (as first argument), and turns it off behind any base URL.
REMOTE = frozenset((b"bridge", b"rc", b"remote", b"remote-control", b"sync"))
#: Sessions that run on Anthropic's machines.
CLOUD = frozenset((b"--cloud", b"--environment", b"--remote", b"ultrareview"))

#: `claude daemon` is found behind these two as well (2.1.332)
_BEFORE_DAEMON = (b"--dangerously-skip-permissions", b"--allow-dangerously-skip-permissions")

_REMOTE_WHY = (
    "Remote Control does not work through openclaude",
    "Claude Code offers it only where it speaks to Anthropic itself, not behind a gateway",
    "Run: claude remote-control. Its sessions use your plan alone, and no proxy",
)
_DESKTOP_WHY = (
    "Claude Desktop cannot be opened by openclaude",
    "the app takes no settings of Claude Code's, so its session would not go through the proxies",
    "Run: claude --desktop. docs/claude-code.md says what the app offers instead",
)
_SCHEDULED = (
    "what the background service starts by itself (scheduled tasks) is claude, not openclaude:"
    " run `occtl claude configure` to have that go through the proxies too"
)
_RUNNER = "the sessions of {} are Anthropic's to start: nothing of them goes through the proxies"
_ELSEWHERE = (
    "what runs in Anthropic's cloud ({}) uses your plan there; nothing of it goes through the proxies"
)


def place(arguments: "list[bytes]") -> "tuple[str, str, tuple[str, str, str] | None]":
    """How ``claude ARGUMENTS`` is to be started: (where, notice, refusal).

    ``where``: ``before`` (our settings, then the arguments), ``first`` (the arguments alone, the verb first),
    ``plain`` (as they came). ``notice`` is for the person, or empty. ``refusal``: what cannot work, why, what to do.
    """
    word = arguments[0] if arguments else b""
    if word[:1] == b"-":
        at = 0
        while at < len(arguments) and arguments[at] in _BEFORE_DAEMON:
            at += 1
        if arguments[at : at + 1] == [b"daemon"]:
            word = b"daemon"
    if word in FIRST:
        if word == b"daemon" and b"scheduled" in arguments:
            return "first", _SCHEDULED, None
        return "first", _RUNNER.format(word.decode()) if word.startswith(b"self-hosted") else "", None
    options = arguments[: arguments.index(b"--")] if b"--" in arguments else arguments
    if word in PLAIN or (word[:1].isalpha() and (b"--help" in options or b"-h" in options)):
        return "plain", "", None
    if word in REMOTE:
        return "plain", "", _REMOTE_WHY
    if b"--desktop" in options:
        return "plain", "", _DESKTOP_WHY
    cloud = next((option for option in options if option.partition(b"=")[0] in CLOUD), b"")
    if cloud and (cloud[:1] == b"-" or cloud == word):
        return "before", _ELSEWHERE.format(cloud.partition(b"=")[0].decode()), None
    return "before", "", None
