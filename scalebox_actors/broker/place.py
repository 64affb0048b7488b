"""Whether a server is the site it should be, and whether that site is an island.

Asked at every start, because what a wrong answer costs is silent: two sites under one name run
every task that is sent there twice, and a link without lists lets one site delete at another.
"""

import asyncio
import contextlib
import re
from collections.abc import Sequence

import msgspec

from scalebox_actors.broker.answering import answer_on
from scalebox_actors.broker.link import Link
from scalebox_actors.broker.streams import stream_info
from scalebox_actors.errors import UNREADABLE, NotPermitted, Permanent, SbxError
from scalebox_actors.names import Names
from scalebox_actors.topology.model import Topology

CLAIM = "claim"
"""The control verb on which the sites tell the hub which stream they serve."""
REPEAT, REMEMBERED = 10.0, 35.0
LISTEN = 0.5
"""How long others are listened for; a link is slower only in a laboratory."""


_CREATED = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d))?")
"""When a stream was made, as a server writes it; empty for a site that has none yet."""
_encode = msgspec.json.Encoder().encode


class _Claim(msgspec.Struct, frozen=True):
    site: str
    created: str


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
    await check_alone(link, topology, names, info.created if info else "")


async def check_alone(link: Link, topology: Topology, names: Names, created: str) -> None:
    """Raise Permanent if nodes elsewhere serve another stream of the same name.

    nats-server lets only one of two equal names be joined at a time, and each pushes the other
    out: so it is not they who are asked but the hub, which remembers whom it heard last.
    """
    question = _encode(_Claim(site=names.site, created=created))
    hub = names.at(topology.hub)
    answers = await link.collect(hub.ctl(CLAIM), question, seconds=LISTEN, ends=False)
    for answer in answers:
        other = answer.body.decode("utf-8", "replace")
        if not answer.status and other != created:
            raise Permanent(
                f"another site runs under the name {names.site} (its stream is of {other[:40]}); "
                f"give one of the two another name, or end it and wait {REMEMBERED:g} s"
            )


async def claim(link: Link, topology: Topology, names: Names) -> None:
    """Say that we are this site as long as the connection lasts; the hub also takes note."""
    if len(topology.site_names) == 1:
        return
    info = await stream_info(link, names.stream)
    created = info.created if info else ""
    if names.site == topology.hub:
        await _take_note(link, topology, names, created)
    else:
        link.spawn(_repeat(link, topology, names, created))


async def _take_note(link: Link, topology: Topology, names: Names, created: str) -> None:
    """Answer claims with who made the same one and was heard not long ago, or with themselves."""
    heard: dict[str, tuple[str, float]] = {}
    now = asyncio.get_running_loop().time

    async def answer(question: bytes) -> bytes | None:
        asked = _read(question)
        if asked is None or asked.site not in topology.site_names:
            return None
        if asked.site == names.site:
            known = created
        else:
            known, last = heard.get(asked.site, (asked.created, now()))
            if known == asked.created or now() - last > REMEMBERED:
                known = asked.created
                if known:  # who only asks has no stream yet
                    heard[asked.site] = (known, now())
        return known.encode()

    await answer_on(link, names.ctl(CLAIM), answer)


def _read(question: bytes) -> _Claim | None:
    """Return a claim; None for what is none: its time goes out again as an answer of ours."""
    try:
        asked = msgspec.json.decode(question, type=_Claim)
    except UNREADABLE:
        return None
    return asked if _CREATED.fullmatch(asked.created) else None


async def _repeat(link: Link, topology: Topology, names: Names, created: str) -> None:
    while True:
        with contextlib.suppress(SbxError):
            try:
                await check_alone(link, topology, names, created)
            except Permanent as error:
                link.events("site_doubled", str(error))
        await asyncio.sleep(REPEAT)


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
