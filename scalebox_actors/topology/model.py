"""The typed topology: what a YAML file says once it has passed the gate and the checks."""

import re
from collections.abc import Mapping
from enum import StrEnum

import msgspec

from scalebox_actors.limits import (
    DONE_RECORD_LIFE,
    FAILING_RUNS,
    HOPS,
    OUTPUT_TEXT_BYTES,
    STREAM_BYTES,
)

HEADER_GRAMMAR = "[A-Za-z_][A-Za-z0-9_-]*"
_HEADER = re.compile(HEADER_GRAMMAR)


LOCAL = "local"
"""The one site of a topology that names none."""


class Duration(float):
    """Seconds; written as a number of seconds or as `300ms`, `90s`, `10m`, `1h30m`, `2d`."""


class Size(int):
    """Bytes; written as a number or as `64KiB`, `256MiB`, `1GiB`, `10GB`."""


class Launch(StrEnum):
    """How a module's container meets its messages."""

    FRESH = "fresh"
    """A new container for every message; with `warm`, one that was started ahead."""
    SLOT = "slot"
    """A long-lived container per slot, and in it a new process for every message."""
    RESIDENT = "resident"
    """A long-lived container whose program itself reads messages and writes answers."""
    FUNCTION = "function"
    """An async Python function in the node."""


LASTING = (Launch.SLOT, Launch.RESIDENT)
"""Modes whose containers stay when a message has gone."""


class Identity(StrEnum):
    """What makes two messages the same: where they come from, or their body."""

    LINEAGE = "lineage"
    BODY = "body"


class Route(StrEnum):
    """Which of a module's sites a message goes to, when it does not say so itself (`to_site`)."""

    LOCAL_FIRST = "local-first"
    """The site where it arises, if the module is there; else the first of its sites."""
    SPREAD = "spread"
    """In turn over the module's sites, by the message's id: the same for every repetition."""
    BODY_HASH = "body-hash"
    """The same site for the same body."""


class Truncate(StrEnum):
    """Which part of an output text is cut off when it is too long."""

    HEAD = "HEAD"
    TAIL = "TAIL"


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a container may use; what is not given is not limited, except pids."""

    memory: Size | None = None
    cpus: float | None = None
    pids: int = 256
    gpus: int = 0
    """Whole GPUs of the node, for each run its own."""


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """Which exit codes are tried again, how often and after what wait.

    Written `{"75": 3, "*": 1, delay: 2s}` or, as in Scalebox, `['75:3', '*']`.
    """

    rules: Mapping[str, int]
    """Exit code, or `*` for any other, to the number of *re*-tries."""
    delay: Duration = Duration(0)
    factor: float = 1.0
    jitter: float = 0.0
    """Up to this share of a wait is added to it at random, so that retries spread."""
    longest: Duration = Duration(3600)
    most: int = 100
    """All retries of a task together, over all codes."""


DEFAULT_RETRY = Retry(rules={"*": FAILING_RUNS - 1})


class Gather(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Fan-in: one message once all members of a group have arrived."""

    by: str
    """A header's name, `root` for the lineage, or a regular expression searched in the body
    whose first group (or whole match) names the group."""
    count: str | int
    """How many members a group has: a number, or the header that says it."""
    timeout: Duration | None = None
    min_ok: int | None = None
    """With this many members or more a group is let go at the timeout; with fewer it is buried."""

    @property
    def by_header(self) -> bool:
        """Whether `by` names a header or the lineage; everything else is a regular expression."""
        return _HEADER.fullmatch(self.by) is not None


class Batch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """With `launch: slot`: several messages for a slot at once."""

    size: int
    """So many at most; a slot does not wait for more to come."""
    atomic: bool = False
    """The program runs once for all of them, and one exit code holds for all."""


class Keep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long a container lives that is there before its message comes or after it has gone."""

    runs: int = 0
    """After so many runs it ends and another takes its place; 0: never for that."""
    age: Duration | None = None
    """So old it ends at its next pause and another takes its place."""
    idle: Duration = Duration(600)
    """So long without a message it ends, until there is one again."""
    shortest: Duration = Duration(0)
    """Three runs on end, each shorter than this, close the slot: a host that is broken must not
    drain the queue."""
    restarts: int = 3
    """So often on end a slot, or a program, that does not get going is started again."""


class Overflow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """With `route: local-first`, when other sites help out."""

    pending: int
    """So many messages waiting at the own site before the next ones go elsewhere."""


class Link(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may cross the link from a site to the others; what is not given is not limited."""

    rate: float | None = None
    """Messages a second."""
    bandwidth: Size | None = None
    """Bytes a second."""


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """A data centre: one JetStream domain, behind a leaf node or the hub itself."""

    name: str
    label: str = ""
    hub: bool = False
    address: str = ""
    """Where the hub listens for leaf nodes, `host:port`; other sites need none."""
    listen: str = "127.0.0.1:4222"
    """Where the site's server listens for its own clients."""
    servers: tuple[str, ...] = ()
    """With `replicas: 3`: the three hosts of the site's cluster."""
    replicas: int = 1
    data_root: str = ""
    store: str = ""
    """Directory of the server's files; empty: chosen by the deployment."""
    link: Link = Link()
    priorities: Mapping[str, int] = {}
    """Module to priority when carried to another site; higher goes first, 0 by default."""


class Module(msgspec.Struct, frozen=True, kw_only=True):
    """One containerised program (or async function) and how it is run."""

    name: str
    label: str = ""
    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] | None = None
    function: str = ""
    launch: Launch = Launch.FRESH
    warm: int = 0
    """With `launch: fresh`: so many containers per node are started ahead."""
    batch: Batch | None = None
    keep: Keep = Keep()
    sinks: tuple[str, ...] = ()
    slots: int = 1
    timeout: Duration = Duration(3600)
    limits: Limits = Limits()
    retry: Retry | None = None
    gather: Gather | None = None
    env: Mapping[str, str] = {}
    mounts: tuple[str, ...] = ()
    """`root:relative/path:/target[:rw]`; the roots are named by the node's operator."""
    network: str = ""
    user: str = ""
    read_only: bool = False
    devices: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()
    """Where the module runs; empty: at every site (with one site, there)."""
    route: Route = Route.LOCAL_FIRST
    overflow: Overflow | None = None
    identity: Identity = Identity.LINEAGE
    output_text_size: int = OUTPUT_TEXT_BYTES
    text_trunc_mode: Truncate = Truncate.HEAD

    @property
    def retry_rules(self) -> Retry:
        """The module's rules, or the default: three failing runs, then the task is dead."""
        return self.retry or DEFAULT_RETRY


class Topology(msgspec.Struct, frozen=True, kw_only=True):
    """A pipeline: modules joined by messages."""

    name: str
    label: str = ""
    modules: Mapping[str, Module]
    sites: Mapping[str, Site] = {}
    """Empty: one site, `local`."""
    remember: Duration = Duration(DONE_RECORD_LIFE)
    """How long a done-record lives: so long a repeated message is recognised."""
    max_bytes: Size = Size(STREAM_BYTES)
    """How much the stream may hold; full means stop, never drop."""
    hops: int = HOPS

    @property
    def site_names(self) -> tuple[str, ...]:
        """All sites, the hub first; `local` alone if the topology names none."""
        ordered = sorted(self.sites.values(), key=lambda site: not site.hub)
        return tuple(site.name for site in ordered) or (LOCAL,)

    @property
    def hub(self) -> str:
        """The site that the others are joined through."""
        return self.site_names[0]

    def sites_of(self, module: str) -> tuple[str, ...]:
        """Return the sites at which a module runs."""
        return self.modules[module].sites or self.site_names

    def modules_at(self, site: str) -> tuple[str, ...]:
        """Return the modules that run at a site."""
        return tuple(name for name in self.modules if site in self.sites_of(name))

    def part(self, site: str) -> "Topology":
        """Return what of the topology runs at a site; sinks may then name what is not in it."""
        here = {name: self.modules[name] for name in self.modules_at(site)}
        return msgspec.structs.replace(self, modules=here)

    @property
    def entries(self) -> tuple[str, ...]:
        """The modules that no other module sends to: where messages are injected."""
        fed = {sink for module in self.modules.values() for sink in module.sinks}
        return tuple(name for name in self.modules if name not in fed) or tuple(self.modules)[:1]
