"""Who may ask can have no more done by it than be answered: on real servers, with real logins."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from integration.islands import HUB, SOON, B, Islands, islands

from scalebox_actors.broker import JetStreamBroker, Link, claim
from scalebox_actors.broker.place import CLAIM, check_alone
from scalebox_actors.broker.wire import command
from scalebox_actors.clerk import Clerk, Far
from scalebox_actors.local import Site
from scalebox_actors.questions import Op, Page, Question
from scalebox_actors.rights import Role

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

LOOK = msgspec.json.encode(Question(op=Op.SITE))
ABROAD = [
    pytest.param(f"$JS.API.STREAM.DELETE.{HUB.stream}", id="delete-the-stream"),
    pytest.param(f"$JS.API.STREAM.PURGE.{HUB.stream}", id="empty-the-stream"),
    pytest.param(HUB.task("spare"), id="forge-a-task"),
    pytest.param(HUB.done("split", "victim"), id="forge-a-done-record"),
    pytest.param(HUB.result("spare"), id="forge-a-result"),
]
"""Where the one who asks may not publish, and the admin who answers may."""


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Islands]:
    """Three sites with keys, running."""
    with islands(tmp_path_factory.mktemp("islands")) as here:
        yield here


@asynccontextmanager
async def clerk(sites: Islands) -> AsyncIterator[Link]:
    """Answer for the hub as `sbx-actor server` does, with the admin's login."""
    async with sites.link("hub", Role.ADMIN) as admin:
        await Clerk(
            Site(admin, HUB, None), await JetStreamBroker.open(admin, HUB), sites.topology
        ).serve("server")
        await claim(admin, sites.topology, HUB)
        yield admin


async def stored(admin: Link) -> object:
    """Return what the hub's stream has, which it must have to say it."""
    return (await admin.api(f"STREAM.INFO.{HUB.stream}"))["state"]


@pytest.mark.parametrize("reply", ABROAD)
@pytest.mark.parametrize(
    ("role", "subject", "body"),
    [
        pytest.param(Role.TRACE, HUB.ctl(Op.SITE), LOOK, id="look"),
        pytest.param(Role.NODE, HUB.ctl(Op.SITE), LOOK, id="look-of-a-node"),
        pytest.param(Role.NODE, HUB.ctl(CLAIM), b'{"site":"b","created":""}', id="empty-claim"),
        pytest.param(Role.NODE, HUB.ctl(CLAIM), b'{"site":"b","created":"a body"}', id="claim"),
    ],
)
async def test_an_answer_reaches_who_asked_and_nothing_else(
    sites: Islands, role: Role, subject: str, body: bytes, reply: str
) -> None:
    """Across the link a question has nothing published with the rights of who answers it."""
    async with clerk(sites) as admin, sites.link("b", role) as link:
        before = await stored(admin)
        sites.events.clear()
        link.post(command(subject, reply, b"", body))
        page = await Far(link, HUB).answer(Question(op=Op.SITE))  # is answered after it
        await asyncio.sleep(SOON)  # nothing can be awaited that must not come
        after = await stored(admin)

    assert (page.node, after) == ("server", before)
    assert "answer_withheld" in [event for event, _ in sites.events]


async def test_claims_are_answered_across_a_link(sites: Islands) -> None:
    """The inbox of another site's login arrives as it is, so that twins are still found."""
    async with clerk(sites), sites.link("b", Role.ADMIN) as link:
        await check_alone(link, sites.topology, B, "2026-11-26T21:46:14Z")
        sites.events.clear()
        (answer,) = await link.collect(
            HUB.ctl(CLAIM), b'{"site":"b","created":""}', seconds=SOON, ends=False
        )

    assert answer.body == b"2026-11-26T21:46:14Z"
    assert sites.events == []


@pytest.mark.parametrize("op", [Op.PAUSE, Op.RESUME, Op.CANCEL, Op.RETRY, Op.DROP])
async def test_who_looks_changes_nothing(sites: Islands, op: Op) -> None:
    """The server knows the verb of the subject alone, so the question must say the same."""
    question = msgspec.json.encode(Question(op=op, seconds=600.0, modules=("split",)))
    async with clerk(sites) as admin, sites.link("hub", Role.TRACE) as link:
        reply = await link.call_once(HUB.ctl(Op.SITE), question, 5.0)
        consumer = await admin.api(f"CONSUMER.INFO.{HUB.stream}.run_split")

    assert msgspec.json.decode(reply.body, type=Page).error == f"{op} is not to be asked by look"
    assert not consumer.get("paused")
