"""After the configuration was changed: what do the checks say, and does the running daemon take it?"""

from typing import TYPE_CHECKING, Any

from ocd.ctl import screen
from ocd.ctl.daemon import Daemon, NotRunning
from ocd.ctl.finding import finding_line
from ocd.errors import EX_CONFIG, EX_OK

if TYPE_CHECKING:
    from ocd.settings.findings import Finding
    from ocd.wire.messages import Outcome


def errors(findings: "list[Finding]") -> "list[Finding]":
    return [finding for finding in findings if finding.severity == "error"]


def after_undo() -> "list[Finding]":
    """What the checks say now; that a file is missing again is no news to who has put that back."""
    from ocd.settings.folders import Folders
    from ocd.stack.trial import try_out

    return [one for one in try_out(Folders.find(), {}) if one.code != "file-missing"]


def reload_if_running() -> "Outcome | None":
    """Have the daemon read the configuration again, and wait; None when it does not run."""
    from ocd.wire.messages import Outcome, ReloadRequest

    try:
        with Daemon() as daemon, screen.progress("Reloading…"):
            return daemon.post(Outcome, "/v1/reload", ReloadRequest())
    except NotRunning:
        return None


def finish(said: dict[str, Any], findings: "list[Finding]", as_json: bool, *, reload: bool) -> int:
    """Print findings and the reload's outcome (``said`` is the verb's own JSON); returns the exit code."""
    outcome = reload_if_running() if reload else None
    ok = not errors(findings) and (outcome is None or outcome.ok)
    if as_json:
        screen.out_json(
            {
                "ok": ok,
                **said,
                "findings": [finding.as_dict() for finding in findings],
                "reload": outcome.model_dump(mode="json") if outcome is not None else None,
            }
        )
        return EX_OK if ok else EX_CONFIG
    for finding in findings:
        if finding.severity != "note":
            screen.out(finding_line(finding))
    if outcome is not None:
        for name, what in outcome.proxies.items():
            screen.out(f"{name}: {screen.plain(what)}")
        if not outcome.ok:
            screen.show_error(
                screen.outcome_error(outcome, "The new configuration is not serving", EX_CONFIG)
            )
    elif reload:
        screen.note("The daemon is not running: `occtl start` uses it.")
    return EX_OK if ok else EX_CONFIG
