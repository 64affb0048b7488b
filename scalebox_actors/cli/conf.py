"""`sbx-actor conf`: the nats-server configurations of a topology's sites, and the keys to them."""

from pathlib import Path

import click
import msgspec

from scalebox_actors.cli import output
from scalebox_actors.cli.options import Common, common, parameterised, texts
from scalebox_actors.cli.show import suggest
from scalebox_actors.cli.topologies import load
from scalebox_actors.errors import BadInput
from scalebox_actors.keys.private import write_private
from scalebox_actors.sites import Ground, is_loopback, own_names, server_configuration, site_of
from scalebox_actors.topology.model import Site, Topology
from scalebox_actors.topology.site_checks import CLUSTER


def configuration_file(site: Site, member: int) -> str:
    """`nats.conf`, or `nats-N.conf` where a site has several servers."""
    return f"nats-{member}.conf" if site.replicas > 1 else "nats.conf"


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """What was typed beside the topology."""

    site: str | None = None
    member: int | None = None
    keys: str | None = None
    installed: str | None = None
    store: str | None = None


@click.command()
@click.argument("topology")
@click.option("--site", metavar="SITE", help="The site whose configuration is printed.")
@click.option("--member", type=click.IntRange(1, CLUSTER), help="Which of the three servers of a "
              "replicated site, in the order of its `servers`.")  # fmt: skip
@click.option("--keys", metavar="DIR", help="Make what keys are missing here, and write "
              "DIR/SITE/nats.conf for every site, of three servers nats-1.conf to "
              "nats-3.conf.")  # fmt: skip
@click.option("--installed", metavar="DIR", help="Where the files of DIR/SITE will be on the "
              "server's host, if not where they are.")  # fmt: skip
@click.option("--store", metavar="DIR", help="Where the server keeps its streams.")
@parameterised
@common
def conf(common: Common, /, **given: object) -> None:
    """Print the nats-server configuration of a site of TOPOLOGY, a YAML file.

    With --keys every login, link and route is authenticated and encrypted: DIR gets an nkey for
    each role at each site (sender, node, trace, admin, leaf) and a development authority with
    the servers' certificates, all for their owner alone (0700, 0600). What is there is kept.
    Copy DIR/SITE to the site's server, and nothing else.

    \b
    sbx-actor conf topology.yaml --site b
    sbx-actor conf topology.yaml --keys keys --installed /etc/sbx-actor
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    sets, env_files = given.pop("sets"), given.pop("env_files")
    topology = load(str(given.pop("topology")), texts(sets), texts(env_files)).topology
    given |= {"store": common.store, "site": common.site}
    wishes = msgspec.convert(given, Wishes)
    site = _site(topology, wishes)
    printed = wishes.keys is None or wishes.site is not None
    member = _member(site_of(topology, site), wishes.member) if printed else 1
    if wishes.keys is not None:
        _write(common, topology, wishes)
    if printed:
        _print(common, site, _configuration(topology, site, member, wishes))


def _write(common: Common, topology: Topology, wishes: Wishes) -> None:
    """Make what keys are missing, and the configurations of all servers."""
    from scalebox_actors.keys.folder import make_keys  # noqa: PLC0415 - cryptography is slow

    folder = Path(wishes.keys or "")
    make_keys(topology, folder)
    for name in topology.site_names:
        here, site = folder / name, site_of(topology, name)
        if not (is_loopback(site.listen) or any(not is_loopback(one) for one in own_names(site))):
            output.say(
                f"warning: the certificate of site {name} is for the name {name} only: if its "
                "clients reach it under another, say so in the topology, as `servers: [HOST]`"
            )
        made = {
            configuration_file(site, member): _configuration(topology, name, member, wishes)
            for member in range(1, site.replicas + 1)
        }
        for file, text in made.items():
            write_private(here / file, text.encode())
        for old in here.glob("nats*.conf"):  # of before the site had another number of servers
            if old.name not in made:
                old.unlink()
        if wishes.site is None:
            _tell(common, name, here)


def _site(topology: Topology, wishes: Wishes) -> str:
    """Return the site whose configuration is meant; there must be one unless keys are made."""
    if wishes.site is None:
        if len(topology.site_names) > 1 and wishes.keys is None:
            raise click.UsageError(f"give --site, one of {', '.join(topology.site_names)}")
        return topology.hub
    if wishes.site not in topology.site_names:
        hint = suggest(wishes.site, topology.site_names)
        raise BadInput(f"topology {topology.name} has no site {wishes.site!r}{hint}")
    return wishes.site


def _member(site: Site, wanted: int | None) -> int:
    """Return which server of a site is meant; of three one must be said."""
    if site.replicas > 1 and wanted is None:
        raise click.UsageError(f"site {site.name} has {site.replicas} servers: give --member")
    if site.replicas == 1 and wanted not in (None, 1):
        raise click.UsageError(f"site {site.name} has one server, so no --member {wanted}")
    return wanted or 1


def _configuration(topology: Topology, site: str, member: int, wishes: Wishes) -> str:
    ground = Ground(store=wishes.store or site_of(topology, site).store, member=member)
    if wishes.keys is None:
        return server_configuration(topology, site, None, ground)
    from scalebox_actors.keys.folder import read_keys  # noqa: PLC0415 - cryptography is slow

    keys = read_keys(Path(wishes.keys), site, installed=wishes.installed or "")
    return server_configuration(topology, site, keys, ground)


def _print(common: Common, site: str, text: str) -> None:
    if common.json:
        output.record({"site": site, "configuration": text})
    else:
        output.lines(text.rstrip("\n"))


def _tell(common: Common, site: str, folder: Path) -> None:
    if common.json:
        output.record({"site": site, "folder": str(folder)})
    else:
        output.line(f"{site}: {folder}")
