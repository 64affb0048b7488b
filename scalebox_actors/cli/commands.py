"""The table of commands; each is imported when it is called, so that `--help` stays quick."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module, metadata
from typing import Any

import click

from scalebox_actors.cli.show import suggest

COMMANDS = {
    "run": ("run", "Run a topology until all is worked off and print its results."),
    "check": ("check", "Say whether a topology is valid; errors as path:line:col."),
    "plan": ("plan", "Show what a topology would be and make, without making it."),
    "conf": ("conf", "Print the nats-server configuration of a site, and make its keys."),
    "doctor": ("doctor", "Say what this host and its engine could do better, and how."),
    "schema": ("schema", "Print the JSON Schema of topologies, for editors."),
    "server": ("server", "Run the nats-server of a site until told to stop."),
    "image": ("image", "Import, list and remove the images of the runtime oci."),
    "node": ("node", "Run this host's actors of a topology until told to stop."),
    "send": ("send", "Send messages to a module."),
    "status": ("status", "Show how much waits, runs and failed, per module."),
    "results": ("results", "Print what modules without sinks emitted."),
    "trace": ("trace", "Show the runs of messages as trees of their lineage."),
    "logs": ("logs", "Print what the runs of a message printed."),
    "dead": ("dead", "List, show, retry or drop dead letters."),
    "cancel": ("cancel", "Cancel waiting and running messages."),
    "pause": ("pause", "Let modules take no more messages."),
    "resume": ("pause", "Let paused modules take messages again."),
    "drain": ("drain", "Let nodes finish what they run, then end."),
    "completion": ("completion", "Print the completion script of a shell."),
}
_SECTIONS = {
    "Topologies": ("run", "check", "plan", "conf", "schema"),
    "Servers and nodes": ("server", "node", "image", "drain", "doctor"),
    "Messages": ("send", "results", "cancel", "pause", "resume"),
    "Looking": ("status", "trace", "logs", "dead"),
    "Shell": ("completion",),
}


class ReaderLeft(Exception):
    """Whoever read our standard output is gone: click itself would end with exit code 1."""


@contextmanager
def _told_apart() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise ReaderLeft from error


class Table(click.Group):
    """A group of commands that knows their names without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command of that name."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"scalebox_actors.cli.{COMMANDS[cmd_name][0]}")
        command = getattr(module, cmd_name)
        assert isinstance(command, click.Command)  # noqa: S101 - a table of our own
        return command

    def make_context(self, *given: Any, **more: Any) -> click.Context:
        """Read the command line, and answer what is asked at once, as `--help`."""
        with _told_apart():
            return super().make_context(*given, **more)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command that was typed."""
        with _told_apart():
            return super().invoke(ctx)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that was typed, or say which one may have been meant."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            ctx.fail(f"no command `{args[0]:.80}`{suggest(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table alone."""
        del ctx
        for title, names in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, COMMANDS[name][1]) for name in names])


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        try:
            version = metadata.version("scalebox-actors")
        except metadata.PackageNotFoundError:
            version = "from its sources, not installed"
        click.echo(f"sbx-actor {version}")
        ctx.exit()


@click.command(
    cls=Table,
    epilog="Exit codes: 0 ok, 1 failed, 2 usage, 65 bad input, 69 unavailable, 75 try again, "
    "77 not permitted, 128+n ended by signal n.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version,
    help="Print the version.",
)  # fmt: skip
def commands() -> None:
    """Run pipelines of containers: a message, a container, the messages it writes.

    \b
    sbx-actor run examples/primes/topology.yaml --send split 100000
    """  # noqa: D301 - click's mark for text that is not to be wrapped
