"""Least privilege on real servers: what every role may do works, everything else is denied."""

import asyncio
from collections.abc import Iterator

import pytest
from integration.islands import HUB, A, B, Islands, islands, said

from scalebox_actors.broker import JetStreamBroker
from scalebox_actors.broker.streams import consumer_config, ensure_consumer
from scalebox_actors.committer import Committer
from scalebox_actors.courier import Courier, CourierDesk
from scalebox_actors.crossing import Toll
from scalebox_actors.effects import Scribe
from scalebox_actors.errors import NotPermitted
from scalebox_actors.ledger import Ledger
from scalebox_actors.names import Names, parcel_of
from scalebox_actors.ports import Entry, Refused
from scalebox_actors.rights import Role
from scalebox_actors.topology.model import Link as Road
from scalebox_actors.topology.model import Site

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

STREAM, BUCKET = A.stream, A.bucket
API, DIRECT = "$JS.API", f"$JS.API.DIRECT.GET.{A.stream}"

NODE_MAY_NOT = {
    "give-work-to-a-module-that-it-does-not-feed": A.task("count"),
    "forge-a-done-record-of-a-module-that-gets-nothing-from-here": A.done("spare", "x"),
    "bury-a-task-of-such-a-module": A.dead("spare", "x"),
    "bury-at-another-site-what-is-carried-there": HUB.dead("split", "x"),
    "forge-a-result-of-a-module-with-sinks": A.result("count"),
    "read-a-done-record-of-such-a-module": f"{DIRECT}.{A.done('spare', 'x')}",
    "read-a-dead-letter": f"{DIRECT}.{A.dead('split', 'x')}",
    "read-a-waiting-task": f"{DIRECT}.{A.task('count')}",
    "read-by-sequence": f"{API}.STREAM.MSG.GET.{STREAM}",
    "read-by-sequence-directly": DIRECT,
    "look-at-another-topology": f"{API}.STREAM.INFO.SBX_other_AT_a",
    "list-streams": f"{API}.STREAM.NAMES",
    "make-a-stream": f"{API}.STREAM.CREATE.SBX_t_AT_a",
    "purge": f"{API}.STREAM.PURGE.{STREAM}",
    "delete-the-stream": f"{API}.STREAM.DELETE.{STREAM}",
    "delete-a-message": f"{API}.STREAM.MSG.DELETE.{STREAM}",
    "make-a-consumer": f"{API}.CONSUMER.CREATE.{STREAM}.mine",
    "delete-a-consumer": f"{API}.CONSUMER.DELETE.{STREAM}.run_count",
    "pause-a-consumer": f"{API}.CONSUMER.PAUSE.{STREAM}.run_count",
    "pull-from-another-consumer": f"{API}.CONSUMER.MSG.NEXT.{STREAM}.run_split",
    "change-the-deployed-topology": f"$KV.{BUCKET}.topology",
    "forge-a-done-record-of-another-site": B.done("count", "x"),
    "ask-the-streams-of-another-site": "$JS.b.API.STREAM.INFO.SBX_t_AT_b",
    "speak-to-the-system": "$SYS.REQ.SERVER.PING",
}
SENDER_MAY_NOT = {
    "give-work-to-an-inner-module": HUB.task("spare"),
    "forge-a-done-record": HUB.done("split", "x"),
    "put-something-on-the-way-to-another-site": HUB.out("a", "count"),
    "read-a-waiting-task": f"$JS.API.DIRECT.GET.{HUB.stream}.{HUB.task('split')}",
    "command-the-nodes": HUB.ctl("cancel"),
    "purge": f"{API}.STREAM.PURGE.{HUB.stream}",
}
READER_MAY_NOT = {
    "give-work": HUB.task("split"),
    "read-a-waiting-task": f"$JS.API.DIRECT.GET.{HUB.stream}.{HUB.task('split')}",
    "read-the-whole-stream": f"$JS.API.DIRECT.GET.{HUB.stream}",
    "command-the-nodes": HUB.ctl("cancel"),
    "command-the-nodes-of-another-site": A.ctl("drain"),
    "forge-a-run-record": HUB.trace("n"),
    "purge-the-records": f"{API}.STREAM.PURGE.{HUB.trace_stream}",
}
NOBODY_MAY_HEAR = ("_INBOX_a.admin.>", "_INBOX_b.node.>", "_INBOX.>", "sbx.>", ">", "$SYS.>",
                   "$JS.EVENT.>", A.task(">"), B.ctl(">"))  # fmt: skip


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Islands]:
    """Three sites with keys, running."""
    with islands(tmp_path_factory.mktemp("islands")) as here:
        yield here


def table(denials: dict[str, str]) -> list[object]:
    """Return the rows of a table as parameters named by what is tried."""
    return [pytest.param(subject, id=name) for name, subject in denials.items()]


async def refused(sites: Islands, role: Role, site: str, subject: str) -> tuple[str, list[str]]:
    """Return what a role was told when it asked, and what its events say."""
    sites.denials()
    async with sites.link(site, role) as link:
        answer = await said(link, subject)
    return answer, sites.denials()


@pytest.mark.parametrize("subject", table(NODE_MAY_NOT))
async def test_a_node_is_denied(sites: Islands, subject: str) -> None:
    """Whatever a node has no business with is refused, and an event names the subject."""
    answer, events = await refused(sites, Role.NODE, "a", subject)

    assert answer == "denied"
    assert subject.lower() in events[0]


@pytest.mark.parametrize("subject", table(SENDER_MAY_NOT))
async def test_a_sender_is_denied(sites: Islands, subject: str) -> None:
    """A sender reaches the entry modules and nothing else."""
    answer, events = await refused(sites, Role.SENDER, "hub", subject)

    assert answer == "denied"
    assert subject.lower() in events[0]


@pytest.mark.parametrize("subject", table(READER_MAY_NOT))
async def test_a_reader_is_denied(sites: Islands, subject: str) -> None:
    """Who may look at run records sees no body, changes nothing and commands nobody."""
    answer, events = await refused(sites, Role.TRACE, "hub", subject)

    assert answer == "denied"
    assert subject.lower() in events[0]


@pytest.mark.parametrize("role", [Role.NODE, Role.SENDER, Role.TRACE])
@pytest.mark.parametrize("subject", NOBODY_MAY_HEAR)
async def test_nobody_listens_to_others(sites: Islands, role: Role, subject: str) -> None:
    """No role hears another's answers, the tasks on their way, or the server's own talk."""
    sites.denials()
    link = await sites.login("a", role)
    await link.subscribe(subject, lambda *_: None)
    await said(link, f"$JS.API.STREAM.INFO.{STREAM}")  # the denial comes before this answer
    await link.close()

    assert any(subject.lower() in event for event in sites.denials())


async def test_smuggling_in_a_batch_stores_nothing(sites: Islands) -> None:
    """A batch with one forbidden member is refused as a whole, its permitted members too."""
    link = await sites.login("a", Role.NODE)
    broker = await JetStreamBroker.open(link, A)
    record = Entry(subject=A.done("count", "smuggler"), body=b"{}", headers={}, expect=0)
    refusal = await broker.write([record, Entry(subject=A.task("count"), body=b"x", headers={})])
    stored = await broker.read(record.subject)
    await link.close()

    assert refusal is not None
    assert refusal.kind is Refused.UNACCEPTABLE
    assert stored is None


async def test_a_node_can_do_its_work(sites: Islands) -> None:
    """Pull, heart-beat, commit with what goes to the hub, double ack, look, remember: all work."""
    admin, link = await sites.login("a", Role.ADMIN), await sites.login("a", Role.NODE)
    await admin.call(A.task("count"), b"7", {"Nats-Msg-Id": "seven"})
    sites.denials()
    broker = await JetStreamBroker.open(link, A)
    async with broker.intake("count") as intake, asyncio.timeout(10):
        intake.grant(1)
        delivery = await anext(aiter(intake))
        outputs = [
            Entry(subject=A.done("count", "seven"), body=b"{}", headers={}, expect=0),
            Entry(subject=A.out("hub", "total"), body=b"49", headers={"Nats-Msg-Id": "49"}),
            Entry(subject=parcel_of(A.out("hub", "total"), 2), body=b"[]"),
        ]
        refusal = await broker.write(outputs)
        await delivery.done()
        await broker.put_state("try.count.seven", b"{}", life=60)
        ended = await broker.read(A.done("count", "seven"))
    state, backlog = await broker.get_state("try.count.seven"), await broker.backlog("count")
    await admin.close()
    await link.close()

    assert (refusal, state, backlog.waiting, sites.denials()) == (None, b"{}", 0, [])
    assert ended is not None


async def test_a_node_buries_what_it_carries(sites: Islands) -> None:
    """What senders and nodes of its site gave for another, and nobody could read, is dead here."""
    admin, link = await sites.login("a", Role.ADMIN), await sites.login("a", Role.NODE)
    await admin.api(f"STREAM.PURGE.{STREAM}")
    for module in ("split", "total"):  # an entry, and a sink of a module that runs here
        await admin.call(parcel_of(A.out("hub", module), 2), b"no parcel", {"Nats-Msg-Id": module})
    sites.denials()
    broker, looking = await JetStreamBroker.open(link, A), await JetStreamBroker.open(admin, A)
    committer = Committer(broker)
    scribe = Scribe(topology=sites.topology, names=A, node="n1", body_limit=broker.body_limit)
    desk = CourierDesk(
        committer=committer, scribe=scribe, ledger=Ledger(broker, "n1"), toll=Toll(Road())
    )
    working = [
        asyncio.ensure_future(committer.run()),
        asyncio.ensure_future(Courier("hub", Site(name="a"), broker, desk).run()),
    ]
    try:
        async with asyncio.timeout(10):
            while await broker.waiting_to("hub"):  # noqa: ASYNC110 - the courier tells nobody
                await asyncio.sleep(0.01)
    finally:
        for work in working:
            work.cancel()
        await asyncio.gather(*working, return_exceptions=True)
    letters = await looking.read_all(A.dead("*", "*"))
    await admin.close()
    await link.close()

    assert sites.denials() == []
    assert [one.subject for one in letters] == [A.dead(m, m) for m in ("split", "total")]


async def test_a_lost_consumer_is_told_of(sites: Islands) -> None:
    """A node may not make consumers: when its own is gone it ends with the reason, not idles."""
    names = Names("t", "a")
    config = consumer_config(names, "count")
    async with sites.link("a", Role.ADMIN) as admin, sites.link("a", Role.NODE) as link:
        broker = await JetStreamBroker.open(link, names)
        try:
            async with broker.intake("count") as intake, asyncio.timeout(20):
                intake.grant(1)
                await admin.api(f"CONSUMER.DELETE.{names.stream}.run_count")
                with pytest.raises(NotPermitted, match="CONSUMER"):
                    await anext(aiter(intake))
        finally:
            await ensure_consumer(admin, names.stream, config)


async def test_a_node_can_gather(sites: Islands) -> None:
    """Where a module gathers, members are stored, read by pattern and purged behind it."""
    link = await sites.login("hub", Role.NODE)
    sites.denials()
    broker = await JetStreamBroker.open(link, HUB)
    members = [
        Entry(subject=HUB.member("total", "g", str(n)), body=b"x", headers={}, expect=0)
        for n in range(3)
    ]
    refusal = await broker.write(members)
    found = await broker.read_all(HUB.member("total", "g", "*"))
    await broker.purge(HUB.member("total", "g", "*"))
    left = await broker.read_all(HUB.member("total", "g", "*"))
    await link.close()

    assert (refusal, len(found), left, sites.denials()) == (None, 3, [], [])


async def test_a_sender_can_send(sites: Islands) -> None:
    """Messages for an entry module are stored, in batches too, and repetitions are known."""
    link = await sites.login("hub", Role.SENDER)
    sites.denials()
    broker = await JetStreamBroker.open(link, HUB)
    entries = [
        Entry(subject=HUB.task("split"), body=b"x", headers={"Nats-Msg-Id": f"s{n}"})
        for n in range(3)
    ]
    first, second = await broker.inject(entries), await broker.inject(entries)
    await link.close()

    assert (first.stored, second.duplicates, sites.denials()) == (3, 3, [])


async def test_messages_cross_where_they_are_addressed(sites: Islands) -> None:
    """A node hands a message to another site's stream, from leaf to leaf and leaf to hub."""
    link = await sites.login("a", Role.NODE)
    answers = [await said(link, B.task("count")), await said(link, HUB.task("total"))]
    await link.close()

    assert answers == ["done", "done"]
