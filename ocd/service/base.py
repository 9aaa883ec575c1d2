"""One surface for all service managers: install, uninstall, start, stop, state; and what they share."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ocd import atomic
from ocd.errors import EX_CONFIG, EX_UNAVAILABLE, OcdError

#: What the daemon and the commands must agree about: where things are, and the three variables of the launcher before
#: ocd. A service manager knows nothing of the shell's environment, so they are written down at installation.
#: None of them can hold a secret.
TAKEN_ALONG = (
    "OCD_PREFIX",
    "OCD_CONFIG_DIR",
    "OCD_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_STATE_HOME",
    "OPENCLAUDE_AWS_PROFILE",
    "OPENCLAUDE_AWS_REGION",
    "OPENCLAUDE_LITELLM_PORT",
)
#: variables of ours that mean nothing to the daemon
_NOT_SETTINGS = ("OCD_SESSION", "OCD_DETACHED", "OCD_NO_SERVICE", "OCD_TEST_", "OCD_STUB_")


@dataclass
class Result:
    """What was done: one sentence each. ``changed`` false: everything was so already. ``notices``: what to know."""

    changed: bool = False
    did: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.changed = True
        self.did.append(text)


class Manager:
    """A service manager. The base class is the one that is not there."""

    name = "none"

    def available(self) -> str:
        """Why it cannot be used, or an empty string."""
        return "no service manager of this user answers"

    def files(self, bin_folder: Path, *, hardened: bool | None = None) -> dict[Path, bytes]:
        """What ``install`` writes: the files' paths and contents. Raises OcdError."""
        raise self._missing()

    def install(self, bin_folder: Path, *, dry_run: bool = False, hardened: bool | None = None) -> Result:
        """Have the ``ocd`` in ``bin_folder`` started now and at every login; idempotent. Raises OcdError.

        ``hardened``: with the sandbox that needs a user namespace, or without it; None leaves it as it is.
        """
        raise self._missing()

    def hardened(self) -> bool:
        """Whether the service has the sandbox that needs a user namespace."""
        return False

    def uninstall(self, *, dry_run: bool = False) -> Result:
        """Take back what ``install`` did; nothing installed is no error."""
        return Result()

    def start(self) -> None:
        """Start the installed service and wait until it serves. Raises OcdError."""
        raise self._missing()

    def stop(self) -> None:
        """Stop the installed service, after it has drained; it stays installed. Raises OcdError."""
        raise self._missing()

    def installed(self) -> bool:
        """Whether our service is there, running or not."""
        return False

    def state(self) -> str:
        """What the manager says of the service, in its own words."""
        return "not installed"

    def lingers(self) -> bool | None:
        """Whether the service outlives the user's last session; None where that is no question."""
        return None

    def _missing(self) -> OcdError:
        return OcdError(
            "ocd cannot be made a service here",
            self.available(),
            hint(),
            exit_code=EX_UNAVAILABLE,
            code="no-service-manager",
        )


def hint(environ: Mapping[str, str] = os.environ, root: str = "/") -> str:
    """What a person does where no service manager answers. ``root``: the file system, for tests."""
    if "WSL_DISTRO_NAME" in environ:
        return "In WSL set systemd=true below [boot] in /etc/wsl.conf, then `wsl --shutdown`; or use `occtl start`"
    if any(os.path.exists(os.path.join(root, name)) for name in (".dockerenv", "run/.containerenv")):
        return "In a container run `ocd` as the main process, or use `occtl start`"
    if "SUDO_UID" in environ and os.getuid() == 0:
        return (
            "This is root through sudo: run it as yourself; `occtl start` runs it without a service manager"
        )
    return (
        "`occtl start` runs it without one. Over ssh or sudo a user manager needs `loginctl enable-linger`"
        " and a session of that user"
    )


def launchers(bin_folder: Path, program: str) -> Path:
    """The folder with the ``ocd`` and ``occtl`` that the service runs. Raises OcdError (exit 78).

    ``bin_folder`` (that of ``install.py``) comes first: its names outlive an upgrade. Else the commands beside
    ``program``, the command that is running (pipx, uv tool, a virtual environment).
    """
    folders = [bin_folder]
    if os.sep in program:
        folders.append(Path(os.path.abspath(program)).parent)
    for folder in folders:
        if all(os.access(folder / name, os.X_OK) for name in ("ocd", "occtl")):
            return folder
    raise OcdError(
        "There is no command for the service to run",
        f"no ocd and occtl in {' or '.join(str(folder) for folder in folders)}",
        "Run `python3 install.py`",
        exit_code=EX_CONFIG,
        code="no-launcher",
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


def environment(bin_folder: Path, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that the service gets besides HOME and what the manager itself sets."""
    found = {"PATH": path_for_service(bin_folder, environ)}
    found.update({name: environ[name] for name in TAKEN_ALONG if environ.get(name)})
    return found


def overlooked(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Settings in this shell's environment that the service will not see, one sentence each."""
    return [
        f"{name} is set in this shell, which the service does not see; put it into ocd.toml"
        for name in sorted(environ)
        if name.startswith("OCD_")
        and environ[name]
        and name not in TAKEN_ALONG
        and not name.startswith(_NOT_SETTINGS)
    ]


def path_for_service(bin_folder: Path, environ: Mapping[str, str] = os.environ) -> str:
    """The PATH that the service gets: ours first, then the user's, without folders that are not there."""
    folders = [str(bin_folder), *(environ.get("PATH") or os.defpath).split(os.pathsep)]
    return os.pathsep.join(f for f in dict.fromkeys(folders) if os.path.isabs(f) and os.path.isdir(f))


def replace_file(path: Path, data: bytes) -> None:
    """Write ``path`` whole or not at all, readable for everybody as such files are. Raises OcdError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.replace(path, data, mode=0o644)
    except OSError as error:
        raise OcdError(
            f"Cannot write {path}",
            error.strerror or str(error),
            "Free some space, or make the folder writable",
            code="service-file",
        ) from None
