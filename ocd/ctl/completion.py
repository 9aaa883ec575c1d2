"""``occtl completion``: the script that makes a shell complete verbs, options and proxy names."""

import click
from click.shell_completion import get_completion_class

from ocd.ctl import screen
from ocd.ctl.options import examples
from ocd.errors import EX_OK

#: what click's scripts get wrong: fish splits a help text at its commas, zsh says an error at each start where
#: compinit was not called before
_MENDED = {
    "fish": {'(string split "," $completion)': '(string split -m 1 "," $completion)'},
    "zsh": {"else\n    # eval/source": "elif (( $+functions[compdef] )); then\n    # eval/source"},
}


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
    screen.out(script(shell, click.get_current_context().find_root().command))
    return EX_OK


def script(shell: str, root: click.Command) -> str:
    """The completion script of one of the three shells; docs/make.py writes it into ocd/completions, too."""
    found = get_completion_class(shell)
    assert found is not None, shell
    # Not source(): for bash that starts a bash to look at its version, which says nothing about the user's.
    made = found(root, {}, "occtl", "_OCCTL_COMPLETE")
    text = made.source_template % made.source_vars()
    for old, new in _MENDED.get(shell, {}).items():
        assert old in text, f"click's script for {shell} has changed"
        text = text.replace(old, new)
    return text.strip("\n")
