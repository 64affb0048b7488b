"""The nats-server configuration of a site, rendered from the topology; nothing here does I/O.

Three choices are the product's and no knob weakens them: every write is synced before it is
acknowledged, pings notice a dead link within 15 s, and the site is the JetStream domain.

Two sites on one machine, joined by a real leaf link:

    def hub(ground): return server_configuration(t, "hub", None, replace(ground, leaf_listen=at))
    def b(ground): return server_configuration(t, "b", None, replace(ground, hub=at))
    EmbeddedServer(store, Settings(site="hub"), hub).start()   # `at` is `127.0.0.1:` a free port
"""

import json
import re
from collections.abc import Mapping
from pathlib import PurePosixPath

import msgspec

from scalebox_actors.errors import BadInput
from scalebox_actors.limits import MIB, NATS_PING, NATS_PINGS_LOST
from scalebox_actors.rights import CLIENTS, Rights, Role, island, rights
from scalebox_actors.topology.model import LOCAL, Site, Topology

ACCOUNT = "SBX"
SYSTEM = "SYS"
STORE = "/var/lib/sbx-actor/nats"
MAX_FILE = 1024 * 1024 * MIB
"""Streams reserve their `max_bytes` from this; what really bounds the store is its disk."""
CLUSTER_PORT = 6222

CERTIFICATE, PRIVATE_KEY, AUTHORITY = "server.pem", "server.key", "ca.pem"
ROUTE_CERTIFICATE, ROUTE_KEY = "route.pem", "route.key"
LEAF_FILE = "leaf.conf"
"""The file beside the certificate that sets the variable below: a configuration holds no secret."""
LEAF_SEED = "LEAF_SEED"

_ANY_HOST = ("0.0.0.0", "[::]", "::")  # noqa: S104 - what others listen on
_LOOPBACK = re.compile(r"(127\.\d+\.\d+\.\d+|localhost|\[::1\]|::1)(:\d+)?")


class Keys(msgspec.Struct, frozen=True, kw_only=True):
    """The public side of what `conf --keys` makes; no secret is in it."""

    folder: str
    """Where the server finds its site's certificate, key, authority and secrets."""
    users: Mapping[str, Mapping[str, str]]
    """Site and role to the public nkey."""
    beside: str = ""
    """The way to that folder from the configuration file, if it does not lie there itself."""


class Ground(msgspec.Struct, frozen=True, kw_only=True):
    """Where one server stands; what is empty follows from the topology."""

    store: str = ""
    listen: str = ""
    """`host:port` for clients; port -1 is any free one."""
    leaf_listen: str = ""
    """`host:port` at which the hub waits for the other sites."""
    hub: str = ""
    """`host:port` at which this site reaches the hub."""
    monitor: str = ""
    """`host:port` of the HTTP page for health checks; none if empty."""
    member: int = 1
    """Which server of a site with three it is, from 1: the one of `servers` at that place."""
    cluster_listen: str = ""
    routes: tuple[str, ...] = ()
    """`host:port` of all servers of the site's cluster."""
    watch: str = ""
    """The public nkey of whom closes links that are dead; see `broker.watch_links`."""
    durable: bool = True
    """Whether every write is synced to disk; only demonstrations without a store say no."""
    max_file: int = MAX_FILE
    max_payload: int = 1 * MIB


class _Bare(str):
    """A word that is written without quotes: a variable."""

    __slots__ = ()


def server_configuration(
    topology: Topology, site: str, keys: Keys | None = None, ground: Ground | None = None
) -> str:
    """Return the configuration file of a server of `site`.

    With keys every login, link and route is authenticated and encrypted; without, whoever
    reaches the ports may do everything, which is for loopback alone.
    Raises BadInput if the topology has no such site.
    """
    place, here = ground or Ground(), site_of(topology, site)
    blocks: dict[str, object] = {
        "server_name": server_name(site, place.member if here.replicas > 1 else 0),
        "listen": place.listen or here.listen,
        "max_payload": place.max_payload,
        "ping_interval": f"{NATS_PING}s",
        "ping_max": NATS_PINGS_LOST,
        # Of a link that is down, once a minute; the default is a line for every attempt.
        "reconnect_error_reports": 60,
    }
    if place.monitor:
        blocks["http"] = place.monitor
    blocks["jetstream"] = _jetstream(here, place)
    if here.replicas > 1:
        blocks |= _advertised(here, place)
        blocks["cluster"] = _cluster(here, place, keys)
    if len(topology.site_names) > 1:
        blocks["leafnodes"] = _leafnodes(topology, here, place, keys)
    blocks |= _accounts(topology, here, keys, place.watch)
    if keys is not None and not is_loopback(place.listen or here.listen):
        blocks["tls"] = _tls(keys)
    lines = [_written(name, value) for name, value in blocks.items()]
    return "".join([*_includes(topology, here, keys), *lines])


def site_of(topology: Topology, site: str) -> Site:
    """Return a site of the topology; raises BadInput that names those there are."""
    if not topology.sites and site == LOCAL:
        return Site(name=LOCAL, hub=True)
    if site not in topology.sites:
        there = ", ".join(topology.site_names)
        raise BadInput(f"topology {topology.name} has no site {site!r}; there is {there}")
    return topology.sites[site]


def server_name(site: str, member: int = 0) -> str:
    """`sbx-S`, or `sbx-S-n` in a cluster."""
    return f"sbx-{site}-{member}" if member else f"sbx-{site}"


def is_loopback(address: str) -> bool:
    """Whether `host:port` or `host` is reached from its own host alone."""
    return _LOOPBACK.fullmatch(address) is not None


def own_names(site: Site) -> set[str]:
    """Return the hosts under which the topology says that a site's servers are reached."""
    addresses = [site.address, site.listen, *site.servers]
    hosts = {split_address(address, 0)[0].strip("[]") for address in addresses if address}
    return hosts - {"0.0.0.0", "::"}  # noqa: S104 - every address is no name


def split_address(address: str, port: int) -> tuple[str, int]:
    """Return host and port of `host` or `host:port`."""
    host, colon, number = address.rpartition(":")
    if not colon or number.endswith("]"):
        return address, port
    return host, int(number)


# --- its blocks ---------------------------------------------------------------------------------


def _includes(topology: Topology, here: Site, keys: Keys | None) -> list[str]:
    """Return the line that brings in the leaf's seed; the hub would refuse it as unused."""
    if keys is None or here.name == topology.hub:
        return []
    return [f"include {_quoted(str(PurePosixPath(keys.beside, LEAF_FILE)))}\n"]


def _jetstream(here: Site, place: Ground) -> dict[str, object]:
    block: dict[str, object] = {
        "store_dir": place.store or here.store or STORE,
        "domain": here.name,
        "max_file": place.max_file,
    }
    return {**block, "sync_interval": _Bare("always")} if place.durable else block


def _cluster(here: Site, place: Ground, keys: Keys | None) -> dict[str, object]:
    servers = [split_address(server, CLUSTER_PORT) for server in here.servers]
    routes = place.routes or tuple(f"{host}:{port}" for host, port in servers)
    if not routes:
        raise BadInput(f"site {here.name} has three replicas: name its `servers`")
    block: dict[str, object] = {
        "name": here.name,
        "listen": place.cluster_listen or _for_routes(routes[place.member - 1]),
        "routes": [f"nats-route://{route}" for route in routes],
    }
    if keys is not None:
        # The certificates of all sites have one authority; this one only these servers have.
        own = (ROUTE_CERTIFICATE, ROUTE_KEY, ROUTE_CERTIFICATE)
        block["tls"] = {**_tls(keys, files=own), "verify": True}
    return block


def _advertised(here: Site, place: Ground) -> dict[str, object]:
    """Return where clients of the other servers are told to find this one when theirs fails.

    Else they are told of every address that the host has, those of its container bridges too.
    """
    host, port = split_address(place.listen or here.listen, 0)
    if host not in _ANY_HOST or port <= 0 or not 0 < place.member <= len(here.servers):
        return {}
    return {"client_advertise": f"{split_address(here.servers[place.member - 1], 0)[0]}:{port}"}


def _leafnodes(
    topology: Topology, here: Site, place: Ground, keys: Keys | None
) -> dict[str, object]:
    hub = site_of(topology, topology.hub)
    if here.name == hub.name:
        block: dict[str, object] = {
            "listen": place.leaf_listen or _everywhere(hub.address),
            "compression": "s2_auto",
            # Else a leaf hears of other addresses by gossip and goes around the one it was given.
            "no_advertise": True,
        }
        return {**block, "tls": {**_tls(keys), "verify": True}} if keys is not None else block
    return {"reconnect": "500ms", "remotes": [_remote(hub, here, place, keys)]}


def _remote(hub: Site, here: Site, place: Ground, keys: Keys | None) -> dict[str, object]:
    address = place.hub or hub.address
    if not address:
        raise BadInput(f"site {hub.name} needs `address: host:port`, where the others reach it")
    port = split_address(address, 0)[1]
    hosts = [address]
    if not place.hub and hub.replicas > 1:
        hosts += [f"{split_address(s, 0)[0]}:{port}" for s in hub.servers]
    scheme = "nats" if keys is None else "tls"
    remote: dict[str, object] = {
        "urls": [f"{scheme}://{host}" for host in dict.fromkeys(hosts)],
        "compression": "s2_auto",
        "deny_imports": list(island(here.name)),
        "deny_exports": list(island("*")),
    }
    if keys is not None:
        remote |= {"account": ACCOUNT, "nkey": _Bare(f"${LEAF_SEED}"), "tls": _tls(keys)}
    return remote


def _accounts(topology: Topology, here: Site, keys: Keys | None, watch: str) -> dict[str, object]:
    """Return who may log in; without keys, everybody but to the account of the system."""
    system = {SYSTEM: {"users": [_watch(watch)] if watch else []}}
    if keys is None:
        return {"accounts": system, "system_account": SYSTEM} if watch else {}
    users = [_user(keys, here.name, role, rights(topology, here.name, role)) for role in CLIENTS]
    if here.name == topology.hub:
        users += [
            _user(keys, site, Role.LEAF, rights(topology, site, Role.LEAF))
            for site in topology.site_names[1:]
        ]
    accounts = {ACCOUNT: {"jetstream": _Bare("enabled"), "users": users}, **system}
    return {"accounts": accounts, "system_account": SYSTEM}


def _watch(nkey: str) -> dict[str, object]:
    asks = [f"$SYS.REQ.SERVER.*.{verb}" for verb in ("LEAFZ", "KICK")]
    may = {"publish": {"allow": asks}, "subscribe": {"allow": ["_INBOX.>"]}}
    return {"nkey": nkey, "allowed_connection_types": ["STANDARD"], "permissions": may}


def _user(keys: Keys, site: str, role: Role, may: Rights) -> dict[str, object]:
    try:
        nkey = keys.users[site][role]
    except KeyError:
        raise BadInput(f"there is no key of role {role} for site {site}: make keys again") from None
    kind = "LEAFNODE" if role is Role.LEAF else "STANDARD"
    return {
        "nkey": nkey,
        "allowed_connection_types": [kind],
        "permissions": {
            "publish": {"allow": list(may.publish)},
            "subscribe": {"allow": list(may.subscribe)},
        },
    }


def _tls(
    keys: Keys, files: tuple[str, str, str] = (CERTIFICATE, PRIVATE_KEY, AUTHORITY)
) -> dict[str, object]:
    certificate, key, authority = files
    return {
        "cert_file": f"{keys.folder}/{certificate}",
        "key_file": f"{keys.folder}/{key}",
        "ca_file": f"{keys.folder}/{authority}",
        "min_version": "1.2",
        "timeout": 5,
    }


def _for_routes(route: str) -> str:
    """Return where the server waits for the others that is reached by `route`."""
    host, port = split_address(route, CLUSTER_PORT)
    # Not `_everywhere`: on loopback each may have an address of its own, with the same port.
    return route if is_loopback(host) else f"0.0.0.0:{port}"


def _everywhere(address: str) -> str:
    """Return where to listen so that `address` is served."""
    if not address:
        raise BadInput("the hub needs `address: host:port`, where the other sites reach it")
    host = "127.0.0.1" if is_loopback(address) else "0.0.0.0"  # noqa: S104 - a hub is reached
    return f"{host}:{split_address(address, 0)[1]}"


# --- how it is written --------------------------------------------------------------------------


def _quoted(text: str) -> str:
    if not text.isprintable():
        raise BadInput(f"{text[:80]!r} has characters that no configuration of a server can hold")
    return json.dumps(text, ensure_ascii=False)


def _written(name: str, value: object, depth: int = 0) -> str:
    pad = "  " * depth
    colon = "" if isinstance(value, dict) else ":"
    return f"{pad}{name}{colon} {_value(value, depth)}\n"


def _value(value: object, depth: int) -> str:
    pad = "  " * depth
    if isinstance(value, _Bare):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, Mapping):
        inside = "".join(_written(name, item, depth + 1) for name, item in value.items())
        return f"{{\n{inside}{pad}}}"
    if isinstance(value, list):
        inside = "".join(f"{pad}  {_value(item, depth + 1)}\n" for item in value)
        return f"[\n{inside}{pad}]" if value else "[]"
    return str(value)
