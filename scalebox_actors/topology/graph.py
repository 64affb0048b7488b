"""The picture of a topology for `plan`: as text, and as Mermaid for Markdown pages.

In the order of the file, so that two pictures of one topology are the same.
"""

from scalebox_actors.topology.model import Gather, Module, Topology
from scalebox_actors.topology.quantity import show_duration
from scalebox_actors.topology.wording import shown

_RESULTS = "results"


def graph_text(topology: Topology) -> str:
    """Return one line per module: what it runs, how often at once, and where messages go."""
    entries = set(topology.entries)
    width = max(map(len, topology.modules))
    program = {name: _program(module) for name, module in topology.modules.items()}
    widest = max(map(len, program.values()))
    lines = [topology.name + (f": {topology.label}" if topology.label else "")]
    for name, module in topology.modules.items():
        mark = "→" if name in entries else " "
        slots = f"{module.slots} slot{'' if module.slots == 1 else 's'}"
        sinks = ", ".join(module.sinks) or _RESULTS
        line = f"{mark} {name:{width}}  {program[name]:{widest}}  {slots:>9}  → {sinks}"
        line += _where(topology, name)
        lines.append(line)
        if module.gather:
            lines.append(f"  {'':{width}}  {_gather(module.gather)}")
    return "\n".join(lines) + "\n"


def graph_mermaid(topology: Topology) -> str:
    """Return a Mermaid flowchart: entries round, gathers as hexagons, results as a cylinder."""
    entries = set(topology.entries)
    # Ids of their own: a module may have the name of a word of Mermaid, such as `end`.
    ids = {name: f"m{number}" for number, name in enumerate(topology.modules)}
    lines = ["flowchart LR"]
    lines += [
        f"    {ids[name]}{_shape(module, _where(topology, name), entry=name in entries)}"
        for name, module in topology.modules.items()
    ]
    if any(not module.sinks for module in topology.modules.values()):
        lines.append(f"    {_RESULTS}[({_RESULTS})]")
    for name, module in topology.modules.items():
        targets = [ids[sink] for sink in module.sinks] or [_RESULTS]
        lines += [f"    {ids[name]} --> {target}" for target in targets]
    return "\n".join(lines) + "\n"


def _where(topology: Topology, module: str) -> str:
    """Say where a module runs, if there are several sites."""
    return "  at " + ", ".join(topology.sites_of(module)) if len(topology.sites) > 1 else ""


def _shape(module: Module, where: str, *, entry: bool) -> str:
    text = f"{module.name}<br/>{_escaped(_program(module))}"
    if where:
        text += f"<br/>{where.strip()}"
    if module.gather:
        return f'{{{{"{text}<br/>{_escaped(_gather(module.gather))}"}}}}'
    return f'(["{text}"])' if entry else f'["{text}"]'


def _program(module: Module) -> str:
    return f"{module.function}()" if module.function else module.image


def _gather(gather: Gather) -> str:
    by = gather.by if gather.by_header else shown(gather.by)
    text = f"gathers {gather.count} by {by}"
    if gather.timeout is not None:
        text += f", {show_duration(gather.timeout)} at most"
    return text if gather.min_ok is None else f"{text}, then {gather.min_ok} are enough"


def _escaped(text: str) -> str:
    """Write what Mermaid or HTML would take for its own as character codes."""
    kept = "/.:_- ,()"
    return "".join(c if c.isalnum() or c in kept else f"#{ord(c)};" for c in text)
