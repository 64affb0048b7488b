"""A connection to the stream of the topology that was meant, for the length of a command."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from scalebox_actors.broker import JetStreamBroker
from scalebox_actors.cli import topologies
from scalebox_actors.cli.credentials import credentials_of
from scalebox_actors.cli.options import Common
from scalebox_actors.errors import BadInput, Unavailable
from scalebox_actors.local import Reach, Site, known_topology, open_site, open_sites
from scalebox_actors.names import Names
from scalebox_actors.strays import refuse_strays
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
    near: Mapping[str, Site] = {}
    """The sites that are reached without a link, this one among them."""

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


def reach_of(common: Common, topology: str, *, start: bool, ephemeral: bool = False) -> Reach:
    """Return where the options say that servers are."""
    return Reach(
        store=common.store_of(topology),
        nats=common.nats,
        ephemeral=ephemeral,
        start=start,
        credentials=credentials_of(common),
    )


@asynccontextmanager
async def opened(
    common: Common, want: Wanted, *, start: bool = False, deploy: bool = False
) -> AsyncIterator[Session]:
    """Reach a topology; a file is deployed with `deploy`, and with `start` if it is not yet.

    Without --nats, all sites of a topology are reached that lie in its store.
    Raises Unavailable if there is no server or nothing of that name is deployed on it.
    """
    file = want.loaded.topology if want.loaded else None
    reach = reach_of(common, want.name, start=file is not None and (start or deploy))
    async with _sites(common, want, reach) as near:
        if file is not None and deploy:
            await asyncio.gather(*(site.deploy(file) for site in near.values()))
        elif file is not None and start:
            new = [site for site in near.values() if await site.deployed() is None]
            await asyncio.gather(*(site.deploy(file) for site in new))
        here = near[home(common.site, tuple(near))]
        data = await here.deployed()
        if data is None:
            raise Unavailable(
                f"topology {want.name} is not deployed here; "
                "`sbx-actor run` or `sbx-actor node` with its file does that"
            )
        topology = file if file and deploy else load(data, path=f"deployed:{want.name}")
        yield Session(site=here, topology=topology, broker=await here.broker(), near=near)


def home(wish: str | None, sites: Sequence[str]) -> str:
    """Return the site we are at: the one that was named, else the first."""
    if wish and wish not in sites:
        known = ", ".join(sites)
        raise BadInput(f"--site {wish[:80]}: not to be reached here; there is {known}")
    return wish or sites[0]


@asynccontextmanager
async def _sites(common: Common, want: Wanted, reach: Reach) -> AsyncIterator[dict[str, Site]]:
    """Reach the one server that was named, or all sites in the store."""
    file = want.loaded.topology if want.loaded else None
    if common.nats is None:
        known = file or known_topology(reach.store)
        if known is not None:  # else nobody knows yet where its sites are
            await refuse_strays(known, reach)
        async with open_sites(known or Topology(name=want.name, modules={}), reach) as sites:
            yield sites
        return
    async with open_site(Names(want.name), reach) as site:
        name = await site_at(site, file, common.site)
        names = Names(want.name, name)
        yield {name: site if site.names == names else Site(site.link, names, site.server)}


async def site_at(site: Site, topology: Topology | None, wish: str | None) -> str:
    """Return which site a server is; raises BadInput if it is not the one that was meant.

    A server says it by its JetStream domain. Where a topology has one site, any server will do.
    """
    domain = site.link.domain
    if topology is None:
        named = Site(site.link, Names(site.names.topology, domain), None) if domain else site
        found = domain if domain and await named.admin.exists() else site.names.site
        if wish and wish != found:
            raise BadInput(f"--site {wish[:80]}: the server is of site {found}")
        return found
    known = topology.site_names
    if len(known) == 1 and not domain:
        return home(wish, known)
    meant = wish or (known[0] if len(known) == 1 else domain)
    if meant not in known:
        what = f"site {meant}" if meant else "any site: it has no JetStream domain"
        listed = ", ".join(known)
        raise BadInput(
            f"the server is not of {topology.name}'s sites but {what}; there is {listed}"
        )
    if topology.sites and domain != meant:
        raise BadInput(f"--site {meant}: the server's JetStream domain says {domain or 'nothing'}")
    return meant
