"""Which site a message goes to, and what crosses which link.

Pure, and the same on every node: the answer depends on the message and the topology alone, but
for `overflow`, which also looks at the backlog. Where a message finally went is what was
committed, so a task that is run again cannot send its outputs to a second place.
"""

import hashlib
from collections.abc import Iterator

import msgspec

from scalebox_actors.errors import BadMessage
from scalebox_actors.topology.model import Identity, Module, Route, Topology

TO_SITE = "to_site"
"""The header with which a message says itself where it goes."""


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """What of a message decides about its site."""

    id: str
    body: bytes = b""
    to_site: str = ""
    repeatable: bool = False
    """Whether the same id may be sent again at another site: then where it arises says nothing."""


class Crossing(msgspec.Struct, frozen=True, kw_only=True):
    """Messages of one module for another that may go from one site to another."""

    module: str
    sink: str
    origin: str
    target: str
    links: tuple[tuple[str, str], ...]
    """The links on the way, each as leaf and hub, in the order in which they are passed."""


def choose(topology: Topology, here: str, module: str, bound: Bound, *, pending: int = 0) -> str:
    """Return the site that a message for `module`, arising at site `here`, goes to.

    `pending` is how much waits for the module here. Raises BadMessage if the message asks for a
    site where the module does not run.
    """
    if not (topology.sites or bound.to_site):
        return here  # the common case, without a look at the module
    rules, places = topology.modules[module], topology.sites_of(module)
    if bound.to_site:
        return _asked(rules, places, bound.to_site)
    if len(places) == 1:
        return places[0]
    match rules.route:
        case Route.SPREAD:
            return _by_hash(places, bound.id.encode("utf-8", "surrogateescape"))
        case Route.BODY_HASH:
            return _by_hash(places, bound.body)
        case Route.LOCAL_FIRST if bound.repeatable:
            return _by_hash(places, bound.id.encode("utf-8", "surrogateescape"))
        case Route.LOCAL_FIRST:
            return _local_first(rules, places, here, bound.id, pending)


def reachable(topology: Topology, here: str, module: str) -> tuple[str, ...]:
    """Return every site that `choose` may name for a message from `here` that asks for none."""
    rules, places = topology.modules[module], topology.sites_of(module)
    if rules.route is not Route.LOCAL_FIRST or len(places) == 1:
        return places
    if here not in places:
        return places[:1]
    return places if rules.overflow else (here,)


def destinations(topology: Topology, here: str) -> tuple[str, ...]:
    """Return the other sites that messages may have to be carried to, the hub first."""
    return tuple(site for site in topology.site_names if site != here and topology.modules_at(site))


def crossings(topology: Topology) -> Iterator[Crossing]:
    """Yield which messages may cross which links, in the order of the file."""
    for name, module in topology.modules.items():
        for origin in topology.sites_of(name):
            for sink in module.sinks:
                for target in reachable(topology, origin, sink):
                    if target != origin:
                        yield Crossing(
                            module=name,
                            sink=sink,
                            origin=origin,
                            target=target,
                            links=links(topology, origin, target),
                        )


def links(topology: Topology, origin: str, target: str) -> tuple[tuple[str, str], ...]:
    """Return the links from one site to another, each as leaf and hub: all go through the hub."""
    return tuple((site, topology.hub) for site in (origin, target) if site != topology.hub)


def _asked(module: Module, places: tuple[str, ...], site: str) -> str:
    if site not in places:
        told = ", ".join(places)
        raise BadMessage(
            f"{TO_SITE} {site[:80]!r}: module {module.name!r} does not run there, but at {told}"
        )
    if module.identity is Identity.BODY and len(places) > 1:
        # Two senders of one body might ask for two sites, and both would run it.
        raise BadMessage(
            f"{TO_SITE}: module {module.name!r} has `identity: body`, so its site follows from that"
        )
    return site


def _local_first(
    module: Module, places: tuple[str, ...], here: str, message_id: str, pending: int
) -> str:
    if here not in places:
        return places[0]
    if module.overflow is None or pending < module.overflow.pending:
        return here
    others = tuple(place for place in places if place != here)
    return _by_hash(others, message_id.encode("utf-8", "surrogateescape"))


def _by_hash(places: tuple[str, ...], key: bytes) -> str:
    """Choose by the key alone, whatever order the file gives the sites in."""
    number = int.from_bytes(hashlib.sha256(key).digest()[:8], "big")
    return sorted(places)[number % len(places)]
