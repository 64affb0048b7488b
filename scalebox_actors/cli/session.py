"""A connection to the stream of the topology that was meant, for the length of a command."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import msgspec

from scalebox_actors.broker import Credentials, JetStreamBroker
from scalebox_actors.cli import topologies
from scalebox_actors.cli.options import Common
from scalebox_actors.errors import BadInput, Unavailable
from scalebox_actors.local import Site, open_site
from scalebox_actors.names import Names
from scalebox_actors.topology.load import load
from scalebox_actors.topology.model import Topology


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """The topology of a command line, before anything is connected."""

    name: str
    loaded: topologies.Loaded | None = None
    """What its file says; None for one that was named and not given as a file."""

    @property
    def folder(self) -> Path:
        """Where the topology's functions are looked for first."""
        return self.loaded.folder if self.loaded else Path.cwd()


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """An open site, and the topology as its nodes know it."""

    site: Site
    topology: Topology
    broker: JetStreamBroker

    @property
    def names(self) -> Names:
        """The subjects of the topology."""
        return self.site.names


def wanted(text: str, sets: tuple[str, ...] = (), env_files: tuple[str, ...] = ()) -> Wanted:
    """Return the topology that `text` means; a file is loaded, a name is taken as it is."""
    if topologies.is_deployed_name(text):
        return Wanted(name=text)
    loaded = topologies.load(text, sets, env_files)
    return Wanted(name=loaded.topology.name, loaded=loaded)


def reached(
    common: Common, names: Names, *, start: bool, ephemeral: bool = False
) -> AbstractAsyncContextManager[Site]:
    """Reach the server that the options mean; see `open_site`."""
    if common.creds and not Path(common.creds).is_file():
        raise BadInput("there is no such file of credentials", path=common.creds)
    return open_site(
        names,
        nats=common.nats,
        store=common.store_of(names.topology),
        ephemeral=ephemeral,
        start=start,
        credentials=Credentials(creds=common.creds) if common.creds else None,
    )


@asynccontextmanager
async def opened(
    common: Common, want: Wanted, *, start: bool = False, deploy: bool = False
) -> AsyncIterator[Session]:
    """Reach a topology; a file is deployed with `deploy`, and with `start` if it is not yet.

    Raises Unavailable if there is no server or nothing of that name is deployed on it.
    """
    names = Names(want.name)
    file = want.loaded.topology if want.loaded else None
    may_start = file is not None and (start or deploy)
    async with reached(common, names, start=may_start) as site:
        data = await site.deployed()
        if file is not None and (deploy or (start and data is None)):
            await site.deploy(file)
            topology = file
        elif data is not None:
            topology = load(data, path=f"deployed:{want.name}")
        else:
            raise Unavailable(
                f"topology {want.name} is not deployed here; "
                "`sbx-actor run` or `sbx-actor node` with its file does that"
            )
        yield Session(site=site, topology=topology, broker=await site.broker())
