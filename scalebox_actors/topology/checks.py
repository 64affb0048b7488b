"""What a typed topology must keep to beyond the types: references, ranges, what hangs together.

Pure: a finding names its place as the path of keys, and `load` knows where in the file that is.
"""

import re
import warnings
from collections.abc import Iterable, Iterator

from scalebox_actors import limits
from scalebox_actors.names import is_name
from scalebox_actors.topology.container_checks import check_container
from scalebox_actors.topology.findings import Finding, Path, between, error, plain_text, warning
from scalebox_actors.topology.launch_checks import check_launch, launched_by
from scalebox_actors.topology.model import Gather, Launch, Module, Retry, Topology
from scalebox_actors.topology.quantity import show_duration, show_size
from scalebox_actors.topology.reference import image_fault, is_pinned
from scalebox_actors.topology.site_checks import check_module_sites, check_sites
from scalebox_actors.topology.wording import listed, shown, suggestion

REMEMBER_LEAST = 1.0
REMEMBER_SHORT = 600.0
REMEMBER_MOST = 366 * 24 * 3600
MAX_BYTES_LEAST = limits.MIB
BACKOFF_MOST = 100.0
EXIT_CODES = range(1, 256)

_NAME_RULE = (
    "a name has lower-case letters, digits, `-` and `_`, a letter first, "
    f"at most {limits.NAME_LENGTH} characters"
)
_FUNCTION = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*")
_LARGEST = 2**62


def check(topology: Topology, unread: frozenset[Path] = frozenset()) -> list[Finding]:
    """Return what is wrong or doubtful; no more is sought once many faults are found.

    `unread` are the values that are not as their author meant them; nothing is judged by them.
    """
    findings: list[Finding] = []
    faults = 0
    for finding in _all(topology):
        if not finding.is_known(unread):
            continue
        findings.append(finding)
        faults += finding.fatal
        if faults == limits.FAULTS_SHOWN:
            break
    return findings


def _all(topology: Topology) -> Iterator[Finding]:
    yield from _top(topology)
    for module in topology.modules.values():
        yield from _module(module, topology)
    yield from check_sites(topology)
    yield from _graph(topology)
    yield from _images(topology)


def _top(topology: Topology) -> Iterator[Finding]:
    if not is_name(topology.name):
        yield error(("topology",), f"{shown(topology.name)} is no name: {_NAME_RULE}")
    yield from plain_text(("label",), topology.label, limits.LABEL_LENGTH)
    if not topology.modules:
        yield error(("modules",), "a topology needs at least one module")
    if len(topology.modules) > limits.TOPOLOGY_MODULES:
        count, most = len(topology.modules), limits.TOPOLOGY_MODULES
        yield error(("modules",), f"{count} modules; at most {most} are allowed")
    seconds = topology.remember
    if not REMEMBER_LEAST <= seconds <= REMEMBER_MOST:
        yield error(("remember",), between("remember", seconds, "1s", "366d", show_duration))
    elif seconds < REMEMBER_SHORT:
        yield warning(
            ("remember",),
            f"`remember` is only {show_duration(seconds)}: a message repeated later runs again",
        )
    if not MAX_BYTES_LEAST <= topology.max_bytes <= _LARGEST:
        yield error(
            ("max_bytes",), between("max_bytes", topology.max_bytes, "1MiB", "4EiB", show_size)
        )
    if not 1 <= topology.hops <= limits.HOPS_CEILING:
        yield error(("hops",), between("hops", topology.hops, 1, limits.HOPS_CEILING))


def _module(module: Module, topology: Topology) -> Iterator[Finding]:
    at: Path = ("modules", module.name)
    if not is_name(module.name):
        yield error(at, f"{shown(module.name)} is no name: {_NAME_RULE}", at_key=True)
    yield from plain_text((*at, "label"), module.label, limits.LABEL_LENGTH)
    yield from _program(at, module)
    yield from _sinks(at, module, topology)
    if not 1 <= module.slots <= limits.SLOTS_PER_NODE:
        yield error((*at, "slots"), between("slots", module.slots, 1, limits.SLOTS_PER_NODE))
    yield from _duration((*at, "timeout"), module.timeout)
    most = limits.OUTPUT_TEXT_CEILING
    if not 0 <= module.output_text_size <= most:
        yield error(
            (*at, "output_text_size"), between("output_text_size", module.output_text_size, 0, most)
        )
    if module.retry is not None:
        yield from _retry((*at, "retry"), module.retry)
    if module.gather is not None:
        yield from _gather((*at, "gather"), module.gather)
    yield from check_module_sites(at, module, topology)
    yield from check_launch(at, module)
    yield from check_container(at, module)


def _program(at: Path, module: Module) -> Iterator[Finding]:
    if bool(module.image) == bool(module.function):
        given = "both `image` and `function`" if module.image else "neither `image` nor `function`"
        told = f"module {shown(module.name)} has {given}; it needs exactly one of them"
        yield error(at, told, rests_on=((*at, "image"), (*at, "function")))
        return
    if not module.function:
        if module.launch is Launch.FUNCTION:
            told = "`launch: function` needs a `function`"
            yield error((*at, "launch"), told, rests_on=launched_by(at))
        return
    if not _FUNCTION.fullmatch(module.function):
        form = "`module:function` or `package.module:function`"
        yield error((*at, "function"), f"`function` must be {form}, not {shown(module.function)}")
    if module.launch is not Launch.FUNCTION:
        yield error((*at, "launch"), "a `function` is launched as `function`; leave `launch` out")


def _sinks(at: Path, module: Module, topology: Topology) -> Iterator[Finding]:
    if len(module.sinks) > limits.SINKS_PER_MODULE:
        count, most = len(module.sinks), limits.SINKS_PER_MODULE
        yield error((*at, "sinks"), f"{count} sinks; at most {most} are allowed")
    seen: set[str] = set()
    for index, sink in enumerate(module.sinks):
        where = (*at, "sinks", index)
        if sink in seen:
            yield error(where, f"sink {shown(sink)} is named twice")
        elif sink not in topology.modules:
            hint = suggestion(sink, topology.modules)
            yield error(where, f"sink {shown(sink)} is not a module of this topology{hint}")
        seen.add(sink)


def _duration(at: Path, seconds: float | None, least: float = 0.001) -> Iterator[Finding]:
    if seconds is not None and not least <= seconds <= limits.RUN_SECONDS:
        low = "1ms" if least else 0
        yield error(at, between(str(at[-1]), seconds, low, "30d", show_duration))


def _retry(at: Path, retry: Retry) -> Iterator[Finding]:
    for code, count in retry.rules.items():
        where = (*at, code)
        is_code = code.isdigit() and not code.startswith("0") and int(code) in EXIT_CODES
        if code != "*" and not is_code:
            message = f"{shown(code)} is no exit code to retry after; there are 1 to 255 and `*`"
            yield error(where, message, at_key=True)
        if not 0 <= count <= limits.RETRIES_CEILING:
            yield error(where, between(f"retries of {code}", count, 0, limits.RETRIES_CEILING))
    yield from _duration((*at, "delay"), retry.delay, 0)
    yield from _duration((*at, "longest"), retry.longest, 0)
    if not 1 <= retry.factor <= BACKOFF_MOST:
        yield error((*at, "factor"), between("factor", retry.factor, 1, BACKOFF_MOST))
    if not 0 <= retry.jitter <= 1:
        yield error((*at, "jitter"), between("jitter", retry.jitter, 0, 1))
    if not 0 <= retry.most <= limits.RETRIES_CEILING:
        yield error((*at, "most"), between("most", retry.most, 0, limits.RETRIES_CEILING))
    if retry.delay > retry.longest:
        yield warning((*at, "delay"), "`delay` is longer than `longest`, which then holds")


def _gather(at: Path, gather: Gather) -> Iterator[Finding]:
    yield from _grouping((*at, "by"), gather)
    most = limits.GROUP_MEMBERS
    if isinstance(gather.count, int):
        if not 1 <= gather.count <= most:
            yield error((*at, "count"), between("count", gather.count, 1, most))
    elif not _is_header(gather.count):
        form = "a number, or the name of a header that says it"
        yield error((*at, "count"), f"`count` must be {form}, not {shown(gather.count)}")
    yield from _duration((*at, "timeout"), gather.timeout)
    if gather.min_ok is None:
        return
    most = max(gather.count, 1) if isinstance(gather.count, int) else most
    if not 1 <= gather.min_ok <= most:
        yield error((*at, "min_ok"), between("min_ok", gather.min_ok, 1, most))
    if gather.timeout is None:
        told = "`min_ok` says what happens at the `timeout`; give one"
        yield error((*at, "min_ok"), told, rests_on=[(*at, "timeout")])


def _grouping(at: Path, gather: Gather) -> Iterator[Finding]:
    if gather.by_header:
        if not _is_header(gather.by):
            most = limits.USER_HEADER_NAME
            yield error(at, f"a header's name has at most {most} characters: {shown(gather.by)}")
        return
    if not gather.by or len(gather.by) > limits.PATTERN_LENGTH:
        most = limits.PATTERN_LENGTH
        yield error(at, f"`by` must be a header, `root` or a pattern of at most {most} characters")
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what Python will read otherwise one day
            pattern = re.compile(gather.by)
    except (re.error, RecursionError, OverflowError, Warning) as reason:
        yield error(at, f"`by`: {shown(gather.by)} is no regular expression: {shown(str(reason))}")
        return
    if pattern.groups > 1:
        groups = f"{pattern.groups} groups, and the first names the group"
        yield error(at, f"`by`: {shown(gather.by)} has {groups}; write `(?:…)` for the others")


def _is_header(name: str) -> bool:
    return Gather(by=name, count=1).by_header and len(name) <= limits.USER_HEADER_NAME


def _graph(topology: Topology) -> Iterator[Finding]:
    fed = {sink for module in topology.modules.values() for sink in module.sinks}
    entries = [name for name in topology.modules if name not in fed]
    if not entries and topology.modules:
        first = next(iter(topology.modules))
        message = f"every module is the sink of another; messages go in at {shown(first)}"
        yield warning(("modules",), message)
        entries = [first]
    reached = _reached(topology, entries)
    for name in topology.modules:
        if name not in reached:
            message = f"module {shown(name)} is fed only by modules that no entry reaches"
            yield warning(("modules", name), message, at_key=True)
    yield from _alone(topology, fed)
    for cycle in _cycles(topology):
        yield warning(
            ("modules", cycle[0], "sinks"),
            f"{listed(cycle[:8])} {'feeds itself' if len(cycle) == 1 else 'feed each other'}; "
            f"a message ends after {topology.hops} hops",
            at_key=True,
        )


def _alone(topology: Topology, fed: set[str]) -> Iterator[Finding]:
    if len(topology.modules) == 1:
        return
    for name, module in topology.modules.items():
        if name not in fed and not module.sinks:
            message = f"module {shown(name)} has no sinks and is the sink of none"
            yield warning(("modules", name), message, at_key=True)


def _reached(topology: Topology, starts: Iterable[str]) -> set[str]:
    reached: set[str] = set()
    waiting = list(starts)
    while waiting:
        name = waiting.pop()
        if name not in reached and name in topology.modules:
            reached.add(name)
            waiting += topology.modules[name].sinks
    return reached


def _cycles(topology: Topology) -> Iterator[list[str]]:
    """Yield the modules of each cycle, every module once, in the order of the file."""
    names = list(topology.modules)
    number = {name: index for index, name in enumerate(names)}
    # A row of bits per module: which modules its messages may come to (Warshall's closure).
    rows = [0] * len(names)
    for name, module in topology.modules.items():
        for sink in module.sinks:
            rows[number[name]] |= 1 << number[sink] if sink in number else 0
    for through, row in enumerate(rows):
        rows = [r | rows[through] if r >> through & 1 else r for r in rows] if row else rows
    told: set[int] = set()
    for index, row in enumerate(rows):
        if index in told or not row >> index & 1:
            continue
        cycle = [i for i in range(len(names)) if row >> i & 1 and rows[i] >> index & 1]
        told.update(cycle)
        yield [names[i] for i in cycle]


def _images(topology: Topology) -> Iterator[Finding]:
    told: set[str] = set()
    for module in topology.modules.values():
        if module.image in told or is_pinned(module.image) or image_fault(module.image):
            continue
        told.add(module.image)
        message = f"image {shown(module.image)} has neither tag nor digest, so it may change"
        yield warning(("modules", module.name, "image"), message)
