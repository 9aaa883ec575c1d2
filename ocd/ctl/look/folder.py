"""``occtl config path`` without a look at the settings: most often the folder alone is asked for.

``ocd/settings/folders.py`` finds the same folders with platformdirs; a test holds the two together.
"""

import os
import sys

from ocd import paths
from ocd.ctl import screen
from ocd.errors import EX_OK

NAMES = ("ocd", "main", "bedrock")
#: the settings' file in the configuration folder
FILE = "ocd.toml"
_DEFAULTS = {"main": "litellm.yaml", "bedrock": "litellm-bedrock.yaml"}


def config_dir() -> str:
    """The user's configuration folder, whether or not it exists."""
    explicit = os.environ.get("OCD_CONFIG_DIR")
    if explicit:
        return os.path.abspath(os.path.expanduser(explicit))
    prefix = paths.prefix()
    if prefix:
        return os.path.join(os.path.abspath(os.path.expanduser(prefix)), "config")
    home = os.path.expanduser("~")
    if sys.platform == "darwin":
        return f"{home}/Library/Application Support/ocd"
    base = os.environ.get("XDG_CONFIG_HOME", "").strip() or f"{home}/.config"
    return os.path.join(base, "ocd")


def run(file: str | None, as_json: bool) -> int | None:
    """The verb itself; None where only the settings know (a file that ocd.toml or the environment names)."""
    folder = config_dir()
    if file is None and not as_json:
        screen.out(folder)
        return EX_OK
    if file != "ocd" or as_json:
        try:
            with open(os.path.join(folder, FILE), "rb") as there:
                text = there.read()
        except OSError:
            text = b""
        named = any(b"config" in line.partition(b"#")[0] for line in text.splitlines())
        if named or any(name.upper().startswith("OCD_PROXIES") for name in os.environ):
            return None
    files = {name: os.path.join(folder, _DEFAULTS.get(name, FILE)) for name in NAMES}
    if as_json:
        screen.out_json({"folder": folder, "files": files})
    else:
        screen.out(files[file or "ocd"])
    return EX_OK
