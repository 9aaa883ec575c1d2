"""``occtl completion``: the script that makes a shell complete verbs, options and proxy names."""

import click
from click.shell_completion import get_completion_class

from ocd.ctl import screen
from ocd.ctl.options import examples
from ocd.errors import EX_OK


@click.command(
    epilog=examples(
        'bash:  eval "$(occtl completion bash)"                    in ~/.bashrc',
        'zsh:   eval "$(occtl completion zsh)"                     in ~/.zshrc',
        "fish:  occtl completion fish > ~/.config/fish/completions/occtl.fish",
    )
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print a completion script. Works without a running daemon."""
    found = get_completion_class(shell)
    assert found is not None, shell
    root = click.get_current_context().find_root().command
    # Not source(): for bash that starts a bash to look at its version, which says nothing about the user's.
    made = found(root, {}, "occtl", "_OCCTL_COMPLETE")
    screen.out(made.source_template % made.source_vars())
    return EX_OK
