"""`sbx-actor plan`: what a topology is and would make, with nothing made."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from scalebox_actors.broker import Planned, planned
from scalebox_actors.cli import output
from scalebox_actors.cli.host import host_name
from scalebox_actors.cli.options import Common, Finite, common, images_option, parameterised, texts
from scalebox_actors.cli.room import never_fit, sized, sizes_of
from scalebox_actors.cli.show import duration, size, table
from scalebox_actors.cli.topologies import load
from scalebox_actors.errors import RuntimeUnavailable, SbxError
from scalebox_actors.limits import DONE_RECORD_MEMORY
from scalebox_actors.names import Names
from scalebox_actors.placement import crossings
from scalebox_actors.pool import Pool, Room, claim_of, lack, whole_claim
from scalebox_actors.runtimes.choose import KINDS, oci_unasked, open_runtime
from scalebox_actors.runtimes.oci_images import ImageStore
from scalebox_actors.topology.graph import graph_mermaid, graph_text
from scalebox_actors.topology.model import LASTING, Launch, Module, Topology


class Images(msgspec.Struct, frozen=True, kw_only=True):
    """Which images a topology needs, and what is known about them on this host."""

    needed: tuple[str, ...]
    missing: tuple[str, ...] = ()
    unknown: str = ""
    """Why nobody could be asked; empty if somebody was."""

    def state(self, image: str) -> str:
        """Return one word, or the reason why there is none."""
        if self.unknown:
            return "unknown"
        return "missing" if image in self.missing else "present"


@click.command()
@click.argument("topology")
@click.option("--mermaid", is_flag=True, help="Print only the graph, as a Mermaid flowchart.")
@click.option("--rate", type=Finite(min=0), default=10.0, show_default=True,
              help="Tasks per second to reckon the memory of done-records for.")  # fmt: skip
@click.option("--runtime", type=click.Choice(KINDS), envvar="SBX_RUNTIME",
              help="Where to look for images.  [env SBX_RUNTIME]")  # fmt: skip
@images_option
@sized
@parameterised
@common
def plan(common: Common, /, **given: object) -> None:
    """Show what TOPOLOGY, a YAML file, is and would make; nothing is made, no server is asked.

    The graph, where modules run, how often each fits on a node of this size, which images are
    here, streams and consumers, and the memory that the server needs for done-records.

    \b
    sbx-actor plan topology.yaml --rate 100
    sbx-actor plan topology.yaml --mermaid > topology.mmd
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    loaded = load(str(given["topology"]), texts(given["sets"]), texts(given["env_files"]))
    topology, room = loaded.topology, sizes_of(given).room
    for warning in loaded.warnings:
        output.say(warning)
    if given["mermaid"]:
        text = graph_mermaid(topology).rstrip("\n")
        output.record({"mermaid": text}) if common.json else output.lines(text)
        return
    rate = msgspec.convert(given["rate"], float)
    images = asyncio.run(_images(topology, given["runtime"], given["image_store"]))
    things = [
        thing
        for site in topology.site_names
        for thing in planned(topology, Names(topology.name, site))
    ]
    if common.json:
        output.record(fields(topology, things, images, rate, room))
    else:
        output.lines("\n".join(text_of(topology, things, images, rate, room)))
    for name, why in never_fit(topology, room).items():
        output.say(f"warning: module {name}: {why}")


def memory(topology: Topology, rate: float) -> int:
    """Return the bytes of server memory that done-records take at `rate` tasks per second."""
    return round(rate * topology.remember * DONE_RECORD_MEMORY)


def text_of(
    topology: Topology, things: Sequence[Planned], images: Images, rate: float, room: Room
) -> list[str]:
    """Return the plan for people."""
    where = [
        (name, _where(topology, name), _launch(m), m.slots, *_needs(m, room))
        for name, m in topology.modules.items()
    ]
    made = [(thing.kind, thing.name, thing.stream) for thing in things]
    pictures = [(image, images.state(image)) for image in images.needed]
    remembered = duration(topology.remember)
    return [
        *graph_text(topology).rstrip("\n").split("\n"),
        "",
        *table(("module", "runs at", "launch", "slots", "each run takes", "at once here"), where),
        "",
        *_crossings(topology),
        *(table(("image", f"on {host_name()}"), pictures) if pictures else ["no images needed"]),
        *([f"images could not be looked for: {images.unknown}"] if images.unknown else []),
        "",
        *table(("kind", "name", "stream"), made),
        "",
        (
            f"done-records: at {rate:g} tasks/s, remembered for {remembered}, "
            f"about {size(memory(topology, rate))} of the server's memory"
        ),
    ]


def fields(
    topology: Topology, things: Sequence[Planned], images: Images, rate: float, room: Room
) -> dict[str, object]:
    """Return the plan as one record."""
    return {
        "topology": topology.name,
        "modules": [
            {
                "name": name,
                "image": module.image,
                "function": module.function,
                "launch": module.launch.value,
                "warm": module.warm,
                "batch": msgspec.to_builtins(module.batch),
                "slots": module.slots,
                "sinks": list(module.sinks),
                "entry": name in topology.entries,
                "sites": list(topology.sites_of(name)),
                "route": module.route.value,
                "overflow": msgspec.to_builtins(module.overflow),
                "claim": msgspec.to_builtins(claim_of(module)),
                "at_once": at_once(module, room),
                "lack": lack(whole_claim(module), room),
            }
            for name, module in topology.modules.items()
        ],
        "sites": [
            {
                "name": name,
                "hub": site.hub,
                "link": msgspec.to_builtins(site.link),
                "priorities": dict(site.priorities),
            }
            for name, site in topology.sites.items()
        ],
        "room": msgspec.to_builtins(room),
        "crossings": [
            {
                "module": c.module,
                "sink": c.sink,
                "from": c.origin,
                "to": c.target,
                "links": [list(link) for link in c.links],
            }
            for c in crossings(topology)
        ],
        "images": {image: images.state(image) for image in images.needed},
        "streams": [{"kind": t.kind, "name": t.name, "stream": t.stream} for t in things],
        "done_records": {"rate": rate, "bytes": memory(topology, rate)},
    }


def at_once(module: Module, room: Room) -> int:
    """Return how many runs of a module a node of this size has at once, with nothing else there."""
    fits = min(module.slots, Pool(room).count(claim_of(module)))
    return 0 if module.launch in LASTING and fits < module.slots else fits


def _launch(module: Module) -> str:
    mode = module.launch.value
    if module.warm:
        return f"{mode}, {module.warm} warm"
    if module.batch is not None:
        return f"{mode}, {'atomic ' * module.batch.atomic}batches of {module.batch.size}"
    return mode


def _needs(module: Module, room: Room) -> tuple[str, object]:
    claim = claim_of(module)
    parts = [
        f"{claim.millicpus / 1000:g} cpus" if claim.millicpus else "",
        size(claim.memory) if claim.memory else "",
        f"{claim.gpus} gpus" if claim.gpus else "",
    ]
    return ", ".join(part for part in parts if part) or "-", at_once(module, room)


def _where(topology: Topology, module: str) -> str:
    if len(topology.site_names) == 1:
        return "every node"
    route = topology.modules[module].route
    sites = topology.sites_of(module)
    return f"{', '.join(sites)} ({route})" if len(sites) > 1 else sites[0]


def _crossings(topology: Topology) -> list[str]:
    """Return which messages may cross which links."""
    if len(topology.site_names) == 1:
        return []
    rows = [
        (f"{c.module} → {c.sink}", f"{c.origin} → {c.target}", ", ".join(map("-".join, c.links)))
        for c in crossings(topology)
    ]
    if not rows:
        return ["no message crosses a link, unless its header `to_site` says so", ""]
    return [*table(("message", "from → to", "links"), rows), ""]


async def _images(topology: Topology, kind: object, store: object) -> Images:
    """Ask engine or store for the images, if there is one and any are needed."""
    modules = topology.modules.values()
    needed = tuple(dict.fromkeys(m.image for m in modules if m.launch is not Launch.FUNCTION))
    if not needed:
        return Images(needed=())
    if kind == "process":
        return Images(needed=needed, unknown="the process runtime has none")
    images = Path(str(store))
    if kind == "oci":
        return _kept(needed, images)
    try:
        runtime = await open_runtime("docker", state="")
    except RuntimeUnavailable as error:
        if kind is None and await oci_unasked(images):
            return _kept(needed, images)
        return Images(needed=needed, unknown=str(error))
    try:
        return Images(needed=needed, missing=tuple(await runtime.missing(needed)))
    except SbxError as error:
        return Images(needed=needed, unknown=str(error))
    finally:
        await runtime.close()


def _kept(needed: tuple[str, ...], images: Path) -> Images:
    """Say which images are not in a store of the runtime `oci`."""
    find = ImageStore(images).find
    return Images(needed=needed, missing=tuple(image for image in needed if not find(image)))
