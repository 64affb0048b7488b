"""What a topology needs on the server: made once, checked at every start, never made again.

The work queue stream is the state of record, so it is never deleted or rebuilt here: drift that
is safe is put right, all other drift is refused with a sentence.
"""

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from scalebox_actors.broker.client import ApiError
from scalebox_actors.broker.link import Link
from scalebox_actors.errors import BadInput, Permanent
from scalebox_actors.limits import ACK_WAIT, MIB, TRACE_BYTES, TRACE_LIFE
from scalebox_actors.names import Names, bound_for
from scalebox_actors.placement import destinations
from scalebox_actors.topology.model import Site, Topology

Config = Mapping[str, object]
"""A configuration as JetStream writes it in JSON."""

NS = 1_000_000_000
DUPLICATE_WINDOW = 30
"""Short: the promise is the done-record, and an id in the window costs 220 bytes."""
STATE_BYTES = 1024 * MIB
NODES_BYTES = 64 * MIB
MAX_ACK_PENDING = 65_536
MAX_WAITING = 8_192
"""Pulls outstanding per consumer, over all nodes."""
TOPOLOGY_KEY = "topology"

STREAM_NOT_FOUND = 10059
CONSUMER_NOT_FOUND = 10014
STREAM_EXISTS_DIFFERENT = 10058
_FIXED = ("retention", "storage", "allow_atomic", "persist_mode")
"""What a stream cannot change in its life, or we do not want changed under messages."""


class StreamState(msgspec.Struct, frozen=True):
    """What a stream holds."""

    messages: int
    bytes: int
    first_seq: int
    last_seq: int
    subjects: dict[str, int] | None = None


class StreamInfo(msgspec.Struct, frozen=True):
    """What the server says of a stream."""

    config: dict[str, object]
    created: str
    state: StreamState
    ts: str = ""
    """The server's time."""
    total: int = 0
    """How many subjects there are in all pages of the answer."""
    limit: int = 0
    """How many subjects a page has."""

    @property
    def subjects(self) -> list[str]:
        """The patterns that the stream captures."""
        return msgspec.convert(self.config["subjects"], list[str])

    @property
    def max_bytes(self) -> int:
        """How much it may hold; -1 is without limit."""
        return msgspec.convert(self.config["max_bytes"], int)


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """A stream or consumer that a topology needs."""

    kind: str
    """`stream`, `bucket` or `consumer`."""
    name: str
    stream: str
    config: Config


def planned(topology: Topology, names: Names) -> list[Planned]:
    """Return everything that `ensure` would see to at the site of `names`, in its order."""
    replicas = topology.sites.get(names.site, Site(name=names.site)).replicas
    streams = [
        ("stream", names.stream, _work_queue(topology, names)),
        ("stream", names.trace_stream, _trace(names, replicas)),
        ("bucket", f"KV_{names.bucket}", _bucket(names.bucket, STATE_BYTES)),
        ("bucket", f"KV_{names.nodes_bucket}", _bucket(names.nodes_bucket, NODES_BYTES)),
    ]
    copies = {"num_replicas": replicas}
    consumers = [
        *(consumer_config(names, module) for module in topology.modules_at(names.site)),
        *(courier_config(names, site) for site in destinations(topology, names.site)),
    ]
    return [
        *(
            Planned(kind=kind, name=name, stream=name, config={**config, **copies})
            for kind, name, config in streams
        ),
        *(
            Planned(
                kind="consumer",
                name=str(config["durable_name"]),
                stream=names.stream,
                config=config,
            )
            for config in consumers
        ),
    ]


async def ensure(link: Link, topology: Topology, names: Names) -> list[str]:
    """Make what is missing, put right what may be, and return a line for each change.

    Safe to repeat and to run on several nodes at once. Raises BadInput if messages wait for
    modules that the topology no longer has, Permanent if a stream of another kind is in the way.
    """
    changes: list[str] = []
    for plan in planned(topology, names):
        if plan.kind == "consumer":
            change = await ensure_consumer(link, plan.stream, plan.config)
        else:
            change = await _ensure_stream(link, plan, names)
        if change:
            changes.append(f"{plan.kind} {plan.name} {change}")
    return changes


async def ensure_consumer(link: Link, stream: str, config: Config) -> str:
    """Make or put right a durable consumer; returns what was done, or nothing."""
    name = config["durable_name"]
    try:
        info = await link.api(f"CONSUMER.INFO.{stream}.{name}")
    except ApiError as error:
        if error.number != CONSUMER_NOT_FOUND:
            raise
        change = "created"
    else:
        if not _differing(config, msgspec.convert(info["config"], dict[str, object])):
            return ""
        change = "updated"
    request = {"stream_name": stream, "config": config}
    await link.api(f"CONSUMER.DURABLE.CREATE.{stream}.{name}", request)
    return change


def consumer_config(names: Names, module: str) -> dict[str, object]:
    """Return the consumer that hands out a module's tasks.

    `max_deliver` is unlimited: a message that reached a limit would stay, owned by nobody.
    """
    return _durable(names.consumer(module), names.task(module))


def courier_config(names: Names, site: str) -> dict[str, object]:
    """Return the consumer that hands the couriers of this site what is bound for another."""
    return _durable(names.courier(site), names.out(site, ">"))


def _durable(name: str, subject: str) -> dict[str, object]:
    return {
        "durable_name": name,
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "filter_subject": subject,
        "ack_wait": round(ACK_WAIT * NS),
        "max_deliver": -1,
        "max_ack_pending": MAX_ACK_PENDING,
        "max_waiting": MAX_WAITING,
        "replay_policy": "instant",
    }


async def stream_info(
    link: Link, stream: str, request: Mapping[str, object] | None = None
) -> StreamInfo | None:
    """Return what the server says of a stream, or None if there is none."""
    try:
        answer = await link.api(f"STREAM.INFO.{stream}", request)
    except ApiError as error:
        if error.number == STREAM_NOT_FOUND:
            return None
        raise
    return msgspec.convert(answer, StreamInfo)


async def count_subjects(link: Link, stream: str, pattern: str) -> dict[str, int]:
    """Return the number of messages on each subject that matches `pattern`."""
    counts: dict[str, int] = {}
    offset = 0
    while True:
        request = {"subjects_filter": pattern, "offset": offset}
        info = await stream_info(link, stream, request)
        if info is None or not info.state.subjects:
            return counts
        counts |= info.state.subjects
        # Not by what we have: subjects that are not UTF-8 look alike in the answer.
        offset += info.limit or len(info.state.subjects)
        if offset >= info.total:
            return counts


def messages_on(counts: Mapping[str, int]) -> int:
    """Return how many messages there are on subjects: a parcel is as many as it holds."""
    return sum(
        count * (bound_for(subject).count if subject.split(".")[3:4] == ["out"] else 1)
        for subject, count in counts.items()
    )


async def _ensure_stream(link: Link, plan: Planned, names: Names) -> str:
    info = await stream_info(link, plan.name)
    if info is None:
        try:
            await link.api(f"STREAM.CREATE.{plan.name}", plan.config)
        except ApiError as error:
            if error.number != STREAM_EXISTS_DIFFERENT:
                raise
            info = await stream_info(link, plan.name)  # another node was faster
        else:
            return "created"
    if info is None:
        raise Permanent(f"stream {plan.name} was removed while it was being made")
    current = info.config
    differing = _differing(plan.config, current)
    fixed = [key for key in differing if key in _FIXED]
    if fixed:
        told = ", ".join(f"{k} is {current.get(k)!r}, not {plan.config[k]!r}" for k in fixed)
        raise Permanent(f"stream {plan.name} cannot be used ({told}): remove it or rename the app")
    if not differing:
        return ""
    if "subjects" in differing:
        await _check_removed(link, plan, info.subjects, names)
    await link.api(f"STREAM.UPDATE.{plan.name}", {**current, **plan.config})
    return f"updated ({', '.join(differing)})"


async def _check_removed(link: Link, plan: Planned, subjects: Sequence[str], names: Names) -> None:
    """Refuse to forget subjects that messages wait on; forget the consumers of the others."""
    kept = set(msgspec.convert(plan.config["subjects"], list[str]))
    removed = [subject for subject in sorted(subjects) if subject not in kept]
    left: dict[str, int] = {}
    for subject in removed:
        count = messages_on(await count_subjects(link, plan.name, subject))
        if count:
            left[_told(subject, names)] = left.get(_told(subject, names), 0) + count
    if left:
        told = ", ".join(f"{what} ({count} waiting)" for what, count in left.items())
        raise BadInput(
            f"messages wait for modules that are no longer in the topology: {told}; "
            "bring these modules back until the messages are worked off, or set them aside: "
            + "; ".join(f"sbx-actor dead bury {names.topology} {module}" for module in left)
        )
    for consumer in sorted(_unused(removed, kept, names)):
        try:
            await link.api(f"CONSUMER.DELETE.{plan.name}.{consumer}")
        except ApiError as error:
            if error.number != CONSUMER_NOT_FOUND:
                raise


def _told(subject: str, names: Names) -> str:
    """Return the module that a subject is for, and its site if that is another one."""
    if names.is_out(subject):
        bound = bound_for(subject)
        return f"{bound.module} at {bound.site}"
    return subject.rpartition(".")[2]


def _unused(removed: Sequence[str], kept: set[str], names: Names) -> Iterator[str]:
    """Yield the consumers that no subject is left for."""
    carried = {bound_for(subject).site for subject in kept if names.is_out(subject)}
    sites = {bound_for(subject).site for subject in removed if names.is_out(subject)}
    yield from (names.courier(site) for site in sites - carried)
    for subject in removed:
        module = subject.rpartition(".")[2]
        if subject == names.task(module):
            yield names.consumer(module)


def _differing(wanted: Config, current: Config) -> list[str]:
    """Return the keys whose wanted value is not the current one; lists are sets here."""
    return [key for key, value in wanted.items() if _plain(current.get(key)) != _plain(value)]


def _plain(value: object) -> object:
    if isinstance(value, list):
        return sorted(value)
    return value or None  # the server leaves out what is false, zero or empty


def _work_queue(topology: Topology, names: Names) -> dict[str, object]:
    kinds = ("done", "dead", "join", "result")
    return {
        "name": names.stream,
        "subjects": [
            # A literal subject per module: a misspelt name is refused instead of vanishing.
            *(names.task(module) for module in topology.modules_at(names.site)),
            *(
                subject
                for site in destinations(topology, names.site)
                for module in topology.modules_at(site)
                for subject in (names.out(site, module), names.parcel(site, module))
            ),
            *(f"{names.prefix}.{kind}.>" for kind in kinds),
        ],
        "retention": "workqueue",
        "storage": "file",
        "discard": "new",
        "max_bytes": int(topology.max_bytes),
        "duplicate_window": DUPLICATE_WINDOW * NS,
        "allow_atomic": True,
        "allow_msg_ttl": True,
        "allow_direct": True,
    }


def _trace(names: Names, replicas: int) -> dict[str, object]:
    return {
        "name": names.trace_stream,
        "subjects": [names.trace("*")],
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "max_bytes": TRACE_BYTES,
        "max_age": TRACE_LIFE * NS,
        "duplicate_window": DUPLICATE_WINDOW * NS,
        "allow_direct": True,
        # Insight may forget: this spares the disk a sync per message. Replicated streams refuse it.
        **({"persist_mode": "async"} if replicas == 1 else {}),
    }


def _bucket(name: str, max_bytes: int) -> dict[str, object]:
    return {
        "name": f"KV_{name}",
        "subjects": [f"$KV.{name}.>"],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_bytes": max_bytes,
        "max_msgs_per_subject": 1,
        "duplicate_window": DUPLICATE_WINDOW * NS,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "allow_direct": True,
        "allow_msg_ttl": True,
    }
