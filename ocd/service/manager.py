"""Which service manager this machine has."""

import sys

from ocd.service.base import Manager
from ocd.service.launchd import Launchd
from ocd.service.systemd import Systemd


def current() -> Manager:
    """The manager of this machine; the base class where none is known."""
    if sys.platform == "darwin":
        return Launchd()
    if sys.platform.startswith("linux"):
        return Systemd()
    return Manager()
