"""The user's two LiteLLM files, for the verbs that look at them without a daemon."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ocd.stack.stack import Stack


def load_stack() -> "Stack":
    """The user's settings and files as they are now. Raises ConfigError (exit 78) when they cannot be read."""
    from ocd.settings.folders import Folders
    from ocd.settings.load import load
    from ocd.stack.swap import read_stack

    folders = Folders.find()
    return read_stack(folders, load(folders))
