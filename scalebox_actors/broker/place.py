"""Whether a server is the site it should be, and whether that site is an island.

Asked at every start, because what a wrong answer costs is silent: two sites under one name run
every task that is sent there twice, and a link without lists lets one site delete at another.
"""

import asyncio
from collections.abc import Sequence

from scalebox_actors.broker.link import Link
from scalebox_actors.broker.streams import stream_info
from scalebox_actors.errors import NotPermitted, Permanent
from scalebox_actors.names import Names
from scalebox_actors.topology.model import Topology

CLAIM = "site"
"""The control verb on which the nodes of a site say which stream they serve."""
LISTEN = 0.5
"""How long others are listened for; a link is slower only in a laboratory."""


async def check_place(link: Link, topology: Topology, names: Names) -> None:
    """Raise Permanent unless the server is the site of `names`, and alone in being it.

    A topology with one site asks nothing: any server will do.
    """
    if not topology.sites:
        return
    if link.domain != names.site:
        known = f"of site {link.domain}" if link.domain else "without a JetStream domain"
        raise Permanent(
            f"the server is one {known}, not of site {names.site}: "
            f"give --nats of that site, or start it with `sbx-actor conf --site {names.site}`"
        )
    others = [site for site in topology.site_names if site != names.site]
    await _check_island(link, names.site, others)
    info = await stream_info(link, names.stream)
    await check_alone(link, names, info.created if info else "")


async def check_alone(link: Link, names: Names, created: str) -> None:
    """Raise Permanent if nodes elsewhere serve another stream of the same name."""
    answers = await link.collect(names.ctl(CLAIM), b"", seconds=LISTEN, ends=False)
    for answer in answers:
        other = answer.body.decode("utf-8", "replace")
        if not answer.status and other != created:
            raise Permanent(
                f"another site runs under the name {names.site} (its stream is of {other[:40]}); "
                "give one of the two another name, or end it"
            )


async def claim(link: Link, names: Names) -> None:
    """Answer those who ask who serves this site, as long as the connection lasts."""
    info = await stream_info(link, names.stream)
    created = info.created if info else ""

    def answer(_: bytes, reply: bytes, __: bytes, ___: bytes | None) -> None:
        if reply:
            link.publish(reply.decode(), created.encode())

    await link.subscribe(names.ctl(CLAIM), answer)


async def _check_island(link: Link, site: str, others: Sequence[str]) -> None:
    """Raise Permanent if the JetStream API of another site can be reached from here."""
    open_ones = await asyncio.gather(*(_is_open(link, other) for other in others))
    for other in (other for other, is_open in zip(others, open_ones, strict=True) if is_open):
        raise Permanent(
            f"the streams of site {other} can be reached from site {site}: the link between "
            "them has no allow list; make its configuration with `sbx-actor conf`"
        )


async def _is_open(link: Link, site: str) -> bool:
    try:
        answers = await link.collect(f"$JS.{site}.API.INFO", b"", seconds=LISTEN, ends=False)
    except NotPermitted:
        return False  # we may not even ask: the list of our own login is there
    return any(not answer.status for answer in answers)
