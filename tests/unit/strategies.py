"""Hypothesis strategies for topologies that the loader accepts."""

import msgspec
from hypothesis import strategies as st

from scalebox_actors import limits
from scalebox_actors.topology.model import (
    Duration,
    Gather,
    Identity,
    Launch,
    Limits,
    Link,
    Module,
    Overflow,
    Retry,
    Route,
    Site,
    Size,
    Topology,
    Truncate,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
"""Whatever a quoted scalar can hold: quotes, dollars, line breaks, bidirectional controls."""
LABELS = st.text(max_size=40).filter(str.isprintable)
NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,11}", fullmatch=True)
HEADERS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,20}", fullmatch=True)
IMAGES = st.builds(
    "{}{}".format,
    st.from_regex(r"([a-z0-9]{1,8}\.example(:[0-9]{2,4})?/)?[a-z0-9]{1,8}", fullmatch=True),
    st.sampled_from(["", ":1.2-b", ":latest", "@sha256:" + "0a" * 32]),
)
ENV_NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True)
FUNCTIONS = st.from_regex(r"[a-z_][a-z0-9_]{0,8}(\.[a-z_]{1,5})?:[a-z_]{1,8}", fullmatch=True)
MOUNTS = st.builds(
    "{}:{}:/m{}{}".format,
    NAMES,
    st.sampled_from([".", "a", "a/b c", "Ä-1"]),
    st.integers(0, 10_000),
    st.sampled_from(["", ":ro", ":rw"]),
)


def durations(least: float, most: float = limits.RUN_SECONDS) -> st.SearchStrategy[Duration]:
    """Durations of every spelling: whole units, thousandths and any fraction."""
    whole = st.integers(max(1, int(least)), int(most)).map(float)
    return (
        st.one_of(whole, st.floats(least, most), whole.map(lambda n: n / 1000))
        .filter(lambda seconds: least <= seconds <= most)
        .map(Duration)
    )


def sizes(least: int, most: int = 2**49) -> st.SearchStrategy[Size]:
    """Sizes that are whole units and sizes that are not."""
    return st.one_of(
        st.integers(least, most),
        st.integers(-(-least // limits.MIB), most // limits.MIB).map(lambda n: n * limits.MIB),
    ).map(Size)


LIMITS = st.builds(
    Limits,
    memory=st.none() | sizes(limits.MEMORY_MINIMUM),
    cpus=st.none() | st.floats(limits.CPUS_MINIMUM, 4096),
    pids=st.integers(1, limits.PIDS_CEILING),
    gpus=st.integers(0, limits.GPUS_CEILING),
)
RETRIES = st.builds(
    Retry,
    rules=st.dictionaries(
        st.just("*") | st.integers(1, 255).map(str), st.integers(0, limits.RETRIES_CEILING)
    ),
    delay=durations(0.0),
    factor=st.floats(1, 100),
    jitter=st.floats(0, 1),
    longest=durations(0.0),
    most=st.integers(0, limits.RETRIES_CEILING),
)


@st.composite
def gathers(draw: st.DrawFn) -> Gather:
    """Fan-in by header, lineage or pattern, with and without a time limit."""
    count = draw(st.integers(1, limits.GROUP_MEMBERS) | HEADERS)
    timeout = draw(st.none() | durations(0.001))
    most = count if isinstance(count, int) else limits.GROUP_MEMBERS
    return Gather(
        by=draw(st.sampled_from(["root", "^([^,]+),", r"\d+$", 'a"b\\.']) | HEADERS),
        count=count,
        timeout=timeout,
        min_ok=draw(st.none() | st.integers(1, most)) if timeout is not None else None,
    )


@st.composite
def modules(draw: st.DrawFn, name: str, sinks: tuple[str, ...]) -> Module:
    """A module that runs an image or a function."""
    common = Module(
        name=name,
        label=draw(LABELS),
        sinks=sinks,
        slots=draw(st.integers(1, limits.SLOTS_PER_NODE)),
        timeout=draw(durations(0.001)),
        retry=draw(st.none() | RETRIES),
        gather=draw(st.none() | gathers()),
        identity=draw(st.sampled_from(Identity)),
        output_text_size=draw(st.integers(0, limits.OUTPUT_TEXT_CEILING)),
        text_trunc_mode=draw(st.sampled_from(Truncate)),
    )
    if draw(st.booleans()):
        function = draw(FUNCTIONS)
        return _changed(common, function=function, launch=Launch.FUNCTION)
    return _changed(
        common,
        image=draw(IMAGES),
        command=tuple(draw(st.lists(TEXT, max_size=4).filter(lambda c: not c or bool(c[0])))),
        args=draw(st.none() | st.lists(TEXT, max_size=4).map(tuple)),
        limits=draw(LIMITS),
        env=draw(st.dictionaries(ENV_NAMES, TEXT, max_size=3)),
        mounts=tuple(draw(st.lists(MOUNTS, max_size=3, unique_by=lambda m: m.split(":")[2]))),
        network=draw(st.sampled_from(["", "cluster", "my.net-1"])),
        user=draw(st.sampled_from(["", "root", "1000", "1000:1000", "nobody:nogroup"])),
        read_only=draw(st.booleans()),
        devices=tuple(draw(st.lists(st.just("/dev/fuse"), max_size=1))),
    )


def _changed(module: Module, **fields: object) -> Module:
    given = {name: getattr(module, name) for name in module.__struct_fields__}
    return Module(**{**given, **fields})


@st.composite
def sites(draw: st.DrawFn, name: str, modules: list[str], *, hub: bool) -> Site:
    """A site with anything that may be said of it."""
    return Site(
        name=name,
        label=draw(LABELS),
        hub=hub,
        address=draw(st.sampled_from(["", "h.example:7422", "[::1]:1"])) if hub else "",
        listen=draw(st.sampled_from(["127.0.0.1:4222", "0.0.0.0:1"])),
        servers=draw(st.sampled_from([(), ("n1", "n2:6222", "[::1]")])) if hub else (),
        replicas=3 if hub else 1,
        data_root=draw(st.sampled_from(["", "/data", "/a b/ä"])),
        store=draw(st.sampled_from(["", "/var/lib/sbx"])),
        link=draw(
            st.builds(
                Link,
                rate=st.none() | st.floats(0.001, 1e9),
                bandwidth=st.none() | sizes(limits.KIB),
            )
        ),
        priorities=draw(
            st.dictionaries(st.sampled_from(modules), st.integers(-100, 100), max_size=2)
        ),
    )


@st.composite
def placed(draw: st.DrawFn, module: Module, names: list[str]) -> Module:
    """The same module at any sites where it may be, with any route to it."""
    if module.gather is not None:
        return _changed(module, sites=(draw(st.sampled_from(names)),))
    chosen = tuple(draw(st.lists(st.sampled_from(names), unique=True)))
    by_body = module.identity is Identity.BODY
    route = draw(st.sampled_from([Route.SPREAD, Route.BODY_HASH] if by_body else list(Route)))
    overflow = draw(st.none() | st.builds(Overflow, pending=st.integers(1, 10**9)))
    return _changed(
        module,
        sites=chosen,
        route=route,
        overflow=overflow if route is Route.LOCAL_FIRST else None,
    )


@st.composite
def over_sites(draw: st.DrawFn) -> Topology:
    """A topology over one to four sites."""
    topology = draw(topologies())
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    hub = draw(st.sampled_from(names))
    known = list(topology.modules)
    return msgspec.structs.replace(
        topology,
        sites={name: draw(sites(name, known, hub=name == hub)) for name in names},
        modules={name: draw(placed(m, names)) for name, m in topology.modules.items()},
    )


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    """A topology of one to five modules with any edges between them."""
    names = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    edges = st.lists(st.sampled_from(names), max_size=4, unique=True).map(tuple)
    return Topology(
        name=draw(NAMES),
        label=draw(LABELS),
        modules={name: draw(modules(name, draw(edges))) for name in names},
        remember=draw(durations(1.0)),
        max_bytes=draw(sizes(limits.MIB)),
        hops=draw(st.integers(1, limits.HOPS_CEILING)),
    )
