"""One surface for all service managers: install, uninstall, status. What runs ocd at login, and restarts it."""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from ocd.errors import EX_UNAVAILABLE, OcdError


@dataclass
class Result:
    """What was done: one sentence each. ``changed`` false: everything was so already."""

    changed: bool = False
    did: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.changed = True
        self.did.append(text)


class Manager:
    """A service manager. The base class is the one that is not there."""

    name = "none"

    def available(self) -> str:
        """Why it cannot be used, or an empty string."""
        return "no service manager of this user answers"

    def install(self, bin_folder: Path, *, dry_run: bool = False) -> Result:
        """Have ocd started now and at every login. Raises OcdError."""
        raise self._missing()

    def uninstall(self, *, dry_run: bool = False) -> Result:
        """Take back what ``install`` did; nothing installed is no error."""
        return Result()

    def installed(self) -> bool:
        return False

    def state(self) -> str:
        """What the manager says of the service, in its own words."""
        return "not installed"

    def _missing(self) -> OcdError:
        return OcdError(
            "ocd cannot be made a service here",
            self.available(),
            hint(),
            exit_code=EX_UNAVAILABLE,
            code="no-service-manager",
        )


def current() -> Manager:
    """The manager of this machine; the base class where none is known."""
    if sys.platform == "darwin":
        from ocd.service.launchd import Launchd

        return Launchd()
    if sys.platform.startswith("linux"):
        from ocd.service.systemd import Systemd

        return Systemd()
    return Manager()


def hint() -> str:
    """What a person does where no service manager answers."""
    if "WSL_DISTRO_NAME" in os.environ:
        return "In WSL set systemd=true below [boot] in /etc/wsl.conf, then `wsl --shutdown`; or use `occtl start`"
    if os.path.exists("/.dockerenv") or os.path.exists("/run/.containerenv"):
        return "In a container run `ocd` as the main process, or use `occtl start`"
    return (
        "`occtl start` runs it without one. Over ssh or sudo a user manager needs `loginctl enable-linger`"
        " and a session of that user"
    )


def template(folder: str, name: str) -> str:
    """A file of ours from the installed package, or from the checkout. Raises OcdError."""
    package = Path(__file__).resolve().parent.parent
    for place in (package / "_data" / folder / name, package.parent / folder / name):
        if place.is_file():
            return place.read_text("utf-8")
    raise OcdError(
        f"the file {folder}/{name} is missing", "the installation is not whole", "Run `python3 install.py`"
    )


def path_for_service(bin_folder: Path) -> str:
    """The PATH that the service gets: ours first, then the user's, without folders that are not there."""
    folders = [str(bin_folder), *os.environ.get("PATH", os.defpath).split(os.pathsep)]
    kept = [f for f in dict.fromkeys(folders) if os.path.isabs(f) and os.path.isdir(f) and "%" not in f]
    return os.pathsep.join(kept)
