"""What launchd's rules ask of the keeper. Standard library only."""

from collections.abc import Mapping

from ocd.errors import EX_CONFIG, EX_NOPERM, EX_TEMPFAIL

#: our Label in the plist; launchd gives it to what it starts in this variable (launchd.plist(5), xpc)
LABEL = "io.github.ocd"
VARIABLE = "XPC_SERVICE_NAME"
#: another daemon runs; a folder is somebody else's; ocd.toml cannot be used: starting again would not help. The unit
#: for systemd says the same (RestartPreventExitStatus), and launchd has no such key.
USELESS = (EX_TEMPFAIL, EX_NOPERM, EX_CONFIG)


def exit_code(code: int, environ: Mapping[str, str]) -> int:
    """The code to end with. Under launchd 0 for what no restart mends: KeepAlive starts everything else for ever."""
    return 0 if code in USELESS and environ.get(VARIABLE) == LABEL else code
