"""A node: the actors of a topology on one host, wired together and supervised.

The node owns nothing that matters: killed at any moment, its containers live on, its messages
are delivered again and its successor carries on.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import msgspec

from scalebox_actors.actor import Actor
from scalebox_actors.belongings import labels_of
from scalebox_actors.committer import Committer
from scalebox_actors.courier import Courier, CourierDesk
from scalebox_actors.crossing import RoadStatus, Toll
from scalebox_actors.effects import Scribe
from scalebox_actors.errors import BadInput, SbxError
from scalebox_actors.groups import Groups
from scalebox_actors.health import Disk, report_late, watch_loop
from scalebox_actors.journal import Counts, Journal
from scalebox_actors.launch import workdir
from scalebox_actors.launch.environment import Surroundings
from scalebox_actors.launch.fresh import FreshLauncher
from scalebox_actors.launch.function import FunctionLauncher, load_function
from scalebox_actors.launch.gpus import NVIDIA, Gpus
from scalebox_actors.launch.resident import ResidentLauncher
from scalebox_actors.launch.slots import SlotLauncher
from scalebox_actors.launch.workplace import Workplace
from scalebox_actors.ledger import Ledger
from scalebox_actors.leftovers import LOOK_EVERY, Leftovers
from scalebox_actors.limits import FREE_SPACE, REAPER_EVERY
from scalebox_actors.placement import destinations
from scalebox_actors.pool import InUse, Pool, Room, Share, Ticket, claim_of, stand
from scalebox_actors.ports import Broker, Launcher, Runtime
from scalebox_actors.reaper import Reaper
from scalebox_actors.settle import Desk
from scalebox_actors.spec import Ceiling, check_ceiling
from scalebox_actors.topology.model import Launch, Module, Site, Topology

FLUSH_EVERY = 0.5
SWEEP_EVERY = 5.0
REGISTER_EVERY = 10.0
SHARE_EVERY = 2.0
LEAVE_SECONDS = 2.0
WITHDRAW = "withdraw"
"""The control verb by which couriers are told to let go of what is to be taken back."""
MEASURE_EVERY = 1.0
DISK_EVERY = 5.0
KILL_SECONDS = 15.0
"""The stop grace of a stubborn program and some more."""

log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator says about a node; nothing of it can come from a topology."""

    name: str
    base: Path
    """Where work directories are made."""
    folder: Path = Path()
    """The topology's folder: where functions are looked for first."""
    ip: str = ""
    log_level: str = "info"
    cluster_data_root: str = ""
    ceiling: Ceiling = Ceiling()
    room: Room = Room()
    """What all runs together may use of this host."""
    gpu_devices: tuple[str, ...] = (NVIDIA,)
    sweep_every: float = SWEEP_EVERY
    free_space: int = FREE_SPACE


class ModuleStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a node says of one of its modules."""

    slots: int
    suspended: str
    counts: Counts
    containers: Mapping[str, int] = {}
    """How many of the containers that stay are in which state."""


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a node answers on `ctl.status`."""

    node: str
    runtime: str
    since: float
    draining: bool
    forgotten: int
    modules: dict[str, ModuleStatus]
    roads: dict[str, RoadStatus] = {}
    """Other sites, and how this node's courier stands with each."""
    in_use: InUse = InUse()


class _CancelRequest(msgspec.Struct):
    module: str
    id: str = ""
    ids: tuple[str, ...] = ()


class Node:
    """Runs every module of a topology on this host; see `run`."""

    def __init__(
        self,
        topology: Topology,
        broker: Broker,
        runtime: Runtime | None,
        settings: Settings,
        pool: Pool | None = None,
    ) -> None:
        part = topology.part(broker.names.site)
        check_ceiling(part, settings.ceiling)
        self.topology = topology
        self.settings = settings
        self.pool = pool or Pool(settings.room)
        self.journal = Journal(settings.name)
        self.runtime = runtime
        self.since = time.time()
        self._broker = broker
        self._pending: dict[str, int] = {}
        self._scribe = Scribe(
            topology=topology,
            names=broker.names,
            node=settings.name,
            ip=settings.ip,
            body_limit=broker.body_limit,
            pending=self._pending,
        )
        self._committer = Committer(broker)
        self._base = workdir.make_base(settings.base)
        self._ahead = asyncio.Semaphore(max(1, (os.cpu_count() or 1) // 2))
        self.ledger = Ledger(broker, settings.name, topology.site_names)
        desk = Desk(
            broker=broker,
            committer=self._committer,
            scribe=self._scribe,
            journal=self.journal,
            ledger=self.ledger,
            pool=self.pool,
        )
        self._stays: list[Ticket] = []
        self.couriers = self._couriers()
        self.actors = {
            name: Actor(module, self._launcher(module), desk)
            for name, module in part.modules.items()
        }
        self._groups = [
            Groups(module, broker, self._scribe, self.journal.of(module.name))
            for module in part.modules.values()
            if module.gather is not None
        ]
        fresh = [a for a in self.actors.values() if a.module.launch is not Launch.FUNCTION]
        self._reaper = (
            Reaper(runtime, broker, self._base, settings.name, self._in_hand) if runtime else None
        )
        claims = {name: claim_of(actor.module) for name, actor in self.actors.items()}
        self._leftovers = Leftovers(runtime, self.pool, claims, self._labels, self._in_hand)
        self._disk = Disk(self._base, fresh, settings.free_space)
        self._stopped = asyncio.Event()
        self._draining = False

    async def run(self) -> None:
        """Work until `stop` or `drain`; raises what ends the connection to the broker for good."""
        await self._serve()
        await self._clear_former()
        # Before anything is carried: with each other's limits two nodes would overdo the link's.
        await self._chore(self._register)
        await self._chore(self._share)
        try:
            async with asyncio.TaskGroup() as tasks:
                work = [
                    tasks.create_task(self._committer.run()),
                    *(tasks.create_task(self._act(actor)) for actor in self.actors.values()),
                    tasks.create_task(self._every(LOOK_EVERY, self._leftovers.look, first=0.0)),
                    *(tasks.create_task(courier.run()) for courier in self.couriers.values()),
                    tasks.create_task(self._every(FLUSH_EVERY, self._flush)),
                    tasks.create_task(self._every(self.settings.sweep_every, self._sweep)),
                    tasks.create_task(self._every(REGISTER_EVERY, self._register)),
                    tasks.create_task(self._every(SHARE_EVERY, self._share)),
                    tasks.create_task(self._every(MEASURE_EVERY, self._measure, first=0.0)),
                    tasks.create_task(self._every(REAPER_EVERY, self.reap, first=5.0)),
                    tasks.create_task(self._every(DISK_EVERY, self._disk.look, first=0.0)),
                    tasks.create_task(watch_loop(report_late)),
                ]
                await self._stopped.wait()
                await self._end(work)
        except* SbxError as group:
            raise group.exceptions[0] from group
        finally:
            await asyncio.gather(*(self._chore(actor.close) for actor in self.actors.values()))
            for ticket in self._stays:
                self.pool.leave(ticket)
            with contextlib.suppress(SbxError, TimeoutError):
                async with asyncio.timeout(LEAVE_SECONDS):
                    await self.journal.flush(self._broker)
                    await self._register(life=1.0)  # the others may have our share of the link

    async def _act(self, actor: Actor) -> None:
        await self._leftovers.counted()
        await actor.run()

    async def drain(self) -> None:
        """Take nothing more, wait for what runs, then end."""
        self._draining = True
        await asyncio.gather(*(actor.drain() for actor in self.actors.values()))
        self._stopped.set()

    def stop(self) -> None:
        """End soon: commit what is finished, leave running containers to be adopted."""
        self._draining = True
        for actor in self.actors.values():
            actor.hold()
        self._stopped.set()

    async def kill(self) -> None:
        """Kill every run in hand, give the messages back and end: for a second Ctrl-C."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KILL_SECONDS):
                await asyncio.gather(*(actor.stop_runs() for actor in self.actors.values()))
        self._stopped.set()

    def status(self) -> NodeStatus:
        """Return what this node is doing."""
        return NodeStatus(
            node=self.settings.name,
            runtime=self.runtime.kind if self.runtime else "none",
            since=self.since,
            draining=self._draining,
            forgotten=self.journal.forgotten,
            modules={
                name: ModuleStatus(
                    slots=actor.module.slots,
                    suspended=actor.suspended,
                    counts=self.journal.of(name),
                    containers=actor.states,
                )
                for name, actor in self.actors.items()
            },
            roads={site: courier.status() for site, courier in self.couriers.items()},
            in_use=self.pool.in_use,
        )

    async def open_groups(self) -> int:
        """Return how many groups still wait for members."""
        return sum([len(await groups.open()) for groups in self._groups])

    async def expiring_groups(self) -> int:
        """Return how many of them end by themselves, at their timeout."""
        timed = [groups for groups in self._groups if groups.timed]
        return sum([len(await groups.open()) for groups in timed])

    async def reap(self) -> None:
        """Remove containers and work directories of ours that no task needs any more."""
        if self._reaper is not None:
            await self._reaper.reap(self.since)

    async def _clear_former(self) -> None:
        """Remove what an earlier life of this node kept for messages to come."""
        if self._reaper is not None:
            await self._reaper.clear_former()

    @property
    def _labels(self) -> dict[str, str]:
        """Return the labels that all runs of this node carry."""
        return labels_of(self.topology.name, self.settings.name, self._base)

    def _in_hand(self, name: str) -> bool:
        return any(actor.holds(name) for actor in self.actors.values())

    def _couriers(self) -> dict[str, Courier]:
        """Return a courier to every site that messages may have to go to."""
        site = self._broker.names.site
        here = self.topology.sites.get(site, Site(name=site))
        self._toll = Toll(here.link)
        desk = CourierDesk(
            committer=self._committer, scribe=self._scribe, ledger=self.ledger, toll=self._toll
        )
        return {
            there: Courier(there, here, self._broker, desk)
            for there in destinations(self.topology, site)
        }

    def _launcher(self, module: Module) -> Launcher:
        if module.launch is Launch.FUNCTION:
            return FunctionLauncher(module, load_function(module.function, self.settings.folder))
        if self.runtime is None:
            raise BadInput(f"module {module.name!r} needs a container runtime")
        stays, why = stand(self.pool, module)
        self._stays += stays
        settings, site = self.settings, self._broker.names.site
        root = self.topology.sites[site].data_root if site in self.topology.sites else ""
        place = Workplace(
            runtime=self.runtime,
            base=self._base,
            surroundings=Surroundings(
                topology=self.topology.name,
                site=site,
                node=settings.name,
                ip=settings.ip,
                log_level=settings.log_level,
                cluster_data_root=settings.cluster_data_root or root,
            ),
            ceiling=settings.ceiling,
            gpus=Gpus(indexes=settings.room.gpus, devices=settings.gpu_devices),
            standing=tuple(ticket.share or Share() for ticket in stays),
            lack=why,
            modules=tuple(self.topology.modules),
            ahead=self._ahead,
        )
        if module.launch is Launch.SLOT:
            return SlotLauncher(module, place)
        if module.launch is Launch.RESIDENT:
            return ResidentLauncher(module, place)
        return FreshLauncher(module, place)

    async def _end(self, work: list[asyncio.Task[None]]) -> None:
        """Give what is finished a moment to be committed, then let go of the rest."""
        await asyncio.gather(*(self._chore(actor.abandon) for actor in self.actors.values()))
        for task in work:
            task.cancel()

    async def _serve(self) -> None:
        async def status(_: bytes) -> bytes:
            return _encode(self.status())

        async def cancel(question: bytes) -> bytes:
            request = msgspec.json.decode(question, type=_CancelRequest)
            actor = self.actors.get(request.module)
            wanted = request.ids or (request.id,)
            ended = [actor is not None and await actor.cancel(task_id) for task_id in wanted]
            return _encode(any(ended))

        async def drain(question: bytes) -> bytes:
            mine = question.decode("utf-8", "replace") in ("", self.settings.name)
            if mine and not self._draining:
                self._draining = True
                self._drainer = asyncio.create_task(self.drain())
            return _encode(self.settings.name if mine else "")

        async def withdraw(question: bytes) -> bytes:
            meant = msgspec.json.decode(question, type=dict[int, set[int]])
            gone = [courier.withdraw(meant).items() for courier in self.couriers.values()]
            return _encode({place: inside for one in gone for place, inside in one})

        await self._broker.serve(WITHDRAW, withdraw)
        await self._broker.serve("status", status)
        await self._broker.serve("cancel", cancel)
        await self._broker.serve("drain", drain)

    async def _every(
        self, seconds: float, work: Callable[[], Awaitable[None]], *, first: float | None = None
    ) -> None:
        """Do `work` again and again; what fails is reported and tried at its next turn."""
        await asyncio.sleep(seconds if first is None else first)
        while True:
            await self._chore(work)
            await asyncio.sleep(seconds)

    async def _chore(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except (SbxError, OSError) as error:
            log.warning("chore_failed", extra={"chore": work.__name__, "why": str(error)})
        except Exception:  # a bug of ours ends no node: it says so, each time
            log.exception("chore_failed", extra={"chore": work.__name__})

    async def _flush(self) -> None:
        await self.journal.flush(self._broker)

    async def _measure(self) -> None:
        """Look how much waits for modules that other sites help with."""
        for name, actor in self.actors.items():
            if actor.module.overflow is not None:
                self._pending[name] = (await self._broker.backlog(name)).waiting

    async def _sweep(self) -> None:
        for groups in self._groups:
            await groups.sweep()

    async def _register(self, *, life: float = 3 * REGISTER_EVERY) -> None:
        key = f"node.{self.settings.name}"
        await self._broker.put_state(key, _encode(self.status()), life=life)

    async def _share(self) -> None:
        """Use of the link what is ours, by the nodes that are there; a dead one counts for 30 s."""
        if self._toll.limited:
            self._toll.share(max(1, len(await self._broker.state_keys("node"))))
