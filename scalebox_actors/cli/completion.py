"""`sbx-actor completion`: the script that teaches a shell our commands and options."""

import click
from click.shell_completion import BashComplete, get_completion_class

from scalebox_actors.cli.commands import commands
from scalebox_actors.cli.options import Common, common
from scalebox_actors.cli.output import lines, record

VARIABLE = "_SBX_ACTOR_COMPLETE"


@click.command()
@click.argument("shell", metavar="SHELL", type=click.Choice(["bash", "zsh", "fish"]))
@common
def completion(common: Common, shell: str) -> None:
    """Print the completion script of SHELL: bash, zsh or fish.

    \b
    source <(sbx-actor completion bash)            # in ~/.bashrc; zsh likewise
    sbx-actor completion fish > ~/.config/fish/completions/sbx-actor.fish
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    script = script_of(shell)
    if common.json:
        record({"shell": shell, "script": script})
    else:
        lines(script.rstrip("\n"))


def script_of(shell: str) -> str:
    """Return the script; it asks the program itself, by a variable, what could come next."""
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - the choice above
    maker = kind(commands, {}, "sbx-actor", VARIABLE)
    if isinstance(maker, BashComplete):  # its `source` runs bash first to ask for its version
        return maker.source_template % maker.source_vars()
    return maker.source()
