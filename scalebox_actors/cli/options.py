"""Options that commands share, and how a command gets them: as one `Common` in front."""

import functools
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import click
import msgspec

from scalebox_actors.cli import logbook
from scalebox_actors.errors import BadInput

P = ParamSpec("P")
F = TypeVar("F", bound=Callable[..., object])


class Common(msgspec.Struct, frozen=True, kw_only=True):
    """What every command may be told."""

    json: bool = False
    verbose: bool = False
    nats: str | None = None
    creds: str | None = None
    ca: str | None = None
    insecure: bool = False
    store: str | None = None
    site: str | None = None

    def store_of(self, topology: str) -> Path:
        """Return the folder of the embedded server of a topology."""
        return Path(self.store) if self.store else stores_root() / topology


def stores_root() -> Path:
    """Return where embedded servers keep their data unless told otherwise."""
    return _state_home() / "sbx-actor"


def images_root() -> Path:
    """Return where the images of the runtime `oci` lie unless told otherwise."""
    return _state_home() / "sbx-actor-images"


def images_option(function: F) -> F:
    """Give a command `--images`."""
    return click.option(
        "--images",
        "image_store",
        metavar="DIR",
        type=click.Path(path_type=Path),
        envvar="SBX_IMAGES",
        default=images_root,
        help="The image store of the runtime oci.  [env SBX_IMAGES; "
        "default: ~/.local/state/sbx-actor-images]",
    )(function)


def _state_home() -> Path:
    state = os.environ.get("XDG_STATE_HOME", "")
    # The base directory specification says to ignore a path that is not absolute.
    return Path(state) if state.startswith("/") else Path.home() / ".local" / "state"


def common(function: Callable[Concatenate[Common, P], None]) -> Callable[..., None]:
    """Give a command `--json` and `--verbose`."""

    @click.option("--json", "as_json", is_flag=True, help="Print records as lines of JSON.")
    @click.option("-v", "--verbose", is_flag=True, help="Tell more on standard error.")
    @functools.wraps(function)
    def command(*args: P.args, **kwargs: P.kwargs) -> None:
        own = Common(
            json=bool(kwargs.pop("as_json")),
            verbose=bool(kwargs.pop("verbose")),
            nats=_text(kwargs.pop("nats", None)),
            creds=_text(kwargs.pop("creds", None)),
            ca=_text(kwargs.pop("ca", None)),
            insecure=bool(kwargs.pop("insecure", False)),
            store=_text(kwargs.pop("store", None)),
            site=_text(kwargs.pop("site", None)),
        )
        logbook.start(json=False, level=logging.DEBUG if own.verbose else logging.WARNING)
        return function(own, *args, **kwargs)

    return command


def reaching(function: Callable[Concatenate[Common, P], None]) -> Callable[..., None]:
    """Give a command that needs a server `--nats`, `--store` and `--site`, too."""
    nats = click.option(
        "--nats", metavar="URL", envvar="SBX_NATS", help="The nats-server to use.  [env SBX_NATS]"
    )
    creds = click.option(
        "--creds",
        metavar="FILE",
        envvar="SBX_CREDS",
        help="Credentials for --nats: a role's file of `conf --keys`, or a NATS credentials file; "
        "mode 0600.  [env SBX_CREDS]",
    )
    authority = click.option(
        "--ca",
        metavar="FILE",
        envvar="SBX_CA",
        help="Whose certificates are trusted.  [env SBX_CA; default: ca.pem beside --creds]",
    )
    insecure = click.option(
        "--insecure",
        is_flag=True,
        envvar="SBX_INSECURE",
        help="Speak without TLS to a server on another host.  [env SBX_INSECURE]",
    )
    store = click.option(
        "--store",
        metavar="DIR",
        envvar="SBX_STORE",
        help="The folder of the embedded server, if there is no --nats.  [env SBX_STORE; "
        "default: ~/.local/state/sbx-actor/TOPOLOGY]",
    )
    site = click.option(
        "--site",
        metavar="SITE",
        envvar="SBX_SITE",
        help="Which site of several we are at.  [env SBX_SITE; default: that of the server]",
    )
    return nats(creds(authority(insecure(store(site(common(function)))))))


class Finite(click.FloatRange):
    """A number of a range that has no infinity in it, and nothing that is no number."""

    def convert(
        self, value: float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number that was typed."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


def parameterised(function: F) -> F:
    """Give a command `--set` and `--env-file`, for the parameters of a topology."""
    sets = click.option(
        "--set", "sets", metavar="K=V", multiple=True, help="Set the parameter ${K}; repeatable."
    )
    files = click.option(
        "--env-file",
        "env_files",
        metavar="FILE",
        multiple=True,
        help="Take parameters from lines K=V; repeatable.",
    )
    return sets(files(function))


def pair(text: str, option: str) -> tuple[str, str]:
    """Split `K=V`; raises BadInput that names the option."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise BadInput(f"{option} {text[:80]!r} is not NAME=VALUE")
    return name, value


def texts(value: object) -> tuple[str, ...]:
    """Return the values of a repeatable option."""
    return tuple(map(str, value)) if isinstance(value, tuple) else ()


def _text(value: object) -> str | None:
    return str(value) if value else None
