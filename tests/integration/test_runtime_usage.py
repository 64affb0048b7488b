"""What runs used, as a real kernel counts it: containers by control groups, processes by rusage."""

import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NoReturn

import pytest

from scalebox_actors.ports import Exit
from scalebox_actors.runtimes.cgroups import Cgroups, host_layout
from scalebox_actors.runtimes.docker import DockerRuntime
from scalebox_actors.runtimes.process import ProcessRuntime
from scalebox_actors.spec import ContainerSpec

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

BURN = "i=0; while [ $i -lt 150000 ]; do i=$((i+1)); done"
FILL = "x=$(head -c 12000000 /dev/zero | tr '\\0' x); echo ${#x}"
STORE = "dd if=/dev/zero of=/work/f bs=65536 count=16 oflag=direct 2>/dev/null"


class Bench:
    """An engine whose containers can be measured, and specs for it."""

    def __init__(self, place: Path, image: str) -> None:
        self._place, self._image = place, image
        self.labels = {"sbx.topology": f"t{uuid.uuid4().hex[:12]}", "sbx.node": "n1"}
        self.open: list[DockerRuntime] = []

    async def node(self) -> DockerRuntime:
        """Start a node anew."""
        self.open.append(await DockerRuntime.open())
        return self.open[-1]

    def spec(self, script: str, name: str = "one") -> ContainerSpec:
        """Return a container that runs a shell script."""
        work = self._place / name
        work.mkdir(exist_ok=True)
        return ContainerSpec(
            name=f"sbx-{self.labels['sbx.topology']}.m.{name}",
            image=self._image,
            command=("/bin/sh", "-c", script),
            env={},
            labels=self.labels | {"sbx.attempt": "1"},
            work=str(work),
        )

    def groups(self) -> list[str]:
        """The groups that there are of this bench's containers."""
        begin = f"sbx-{self.labels['sbx.topology']}."
        return [n for n in Cgroups(host_layout()).below("/sbx/n1") if n.startswith(begin)]


@pytest.fixture
async def bench(
    busybox_image: str, tmp_path: Path, cannot_run: Callable[[str], NoReturn]
) -> AsyncIterator[Bench]:
    """Return a bench on the engine that DOCKER_HOST names."""
    made = Bench(tmp_path, busybox_image)
    runtime = await made.node()
    if runtime._meter.fault:
        cannot_run(runtime._meter.fault)
    yield made
    sweeper = await made.node()
    for stray in await sweeper.stray(made.labels):
        await sweeper.remove(stray.name)
    for runtime in made.open:
        await runtime.close()


async def ends(runtime: DockerRuntime | ProcessRuntime, spec: ContainerSpec) -> Exit:
    """Run to the end."""
    return await (await runtime.adopt_or_start(spec)).wait()


async def test_a_container_is_measured(bench: Bench) -> None:
    """More work takes more CPU time, and the peak is at least what the program held."""
    runtime = await bench.node()
    idle = await ends(runtime, bench.spec("true", "idle"))
    busy = await ends(runtime, bench.spec(f"{BURN}; {FILL}", "busy"))

    assert idle.cpu_seconds is not None
    assert busy.cpu_seconds is not None
    assert 0 < idle.cpu_seconds < busy.cpu_seconds
    assert (idle.memory_peak or 0) < 12_000_000 < (busy.memory_peak or 0)


async def test_no_bytes_are_made_up(bench: Bench) -> None:
    """A kernel that cannot tell what went to disk tells nothing; one that can has it all."""
    runtime = await bench.node()
    end = await ends(runtime, bench.spec(STORE))
    known = host_layout().version == 2 and end.code == 0

    assert end.io_write_bytes is None or known
    assert end.io_write_bytes in (None, 16 * 65_536)


async def test_a_container_without_its_node_is_measured_too(bench: Bench) -> None:
    """A node that was killed finds what its containers used meanwhile."""
    first, spec = await bench.node(), bench.spec(BURN)
    await first.adopt_or_start(spec)
    await first.close()
    bench.open.remove(first)

    run = await (await bench.node()).find(spec.name)

    assert run is not None
    assert ((await run.wait()).cpu_seconds or 0) > 0


async def test_no_group_is_left(bench: Bench) -> None:
    """A group goes with its container; one that a killed node left goes with the next sweep."""
    runtime = await bench.node()
    one, two = bench.spec("true"), bench.spec("true", "two")
    await ends(runtime, one)
    await ends(runtime, two)
    both = len(bench.groups())
    await runtime.remove(one.name)
    after = len(bench.groups())
    await bench_deletes_behind_our_back(runtime, two.name)
    await (await bench.node()).stray(bench.labels)

    assert (both, after, bench.groups()) == (2, 1, [])


async def bench_deletes_behind_our_back(runtime: DockerRuntime, name: str) -> None:
    """Remove a container as a node would that is killed before it removes the group."""
    await runtime.engine.request("DELETE", f"containers/{name}", {"force": 1})


async def test_a_second_run_of_a_name_counts_from_nothing(bench: Bench) -> None:
    """What the run before it used is not counted again."""
    runtime = await bench.node()
    busy = await ends(runtime, bench.spec(FILL))
    await runtime.remove(bench.spec("true").name)
    idle = await ends(runtime, bench.spec("true"))

    assert (idle.memory_peak or 0) < 12_000_000 < (busy.memory_peak or 0)


async def test_a_process_is_measured(tmp_path: Path) -> None:
    """CPU time, peak memory, and what was written, of the program and what it waited for."""
    runtime = await ProcessRuntime.open(tmp_path / "state")
    script = f"{BURN}; head -c 1048576 /dev/zero > f; {FILL} >/dev/null"
    work = tmp_path / "work"
    work.mkdir()
    spec = ContainerSpec(
        name="sbx-t.m.one", image="", command=("/bin/sh", "-c", script), env={},
        labels={"sbx.topology": "t", "sbx.attempt": "1"}, work=str(work),
    )  # fmt: skip
    end = await ends(runtime, spec)
    await runtime.remove(spec.name)
    await runtime.close()

    assert (end.code, (end.cpu_seconds or 0) > 0) == (0, True)
    assert (end.memory_peak or 0) > 12_000_000
    assert end.io_read_bytes is not None
    assert end.io_write_bytes is not None


async def test_the_memory_of_the_shepherd_is_not_a_programs(tmp_path: Path) -> None:
    """What is smaller than the shepherd cannot be told from it, and is left out."""
    runtime = await ProcessRuntime.open(tmp_path / "state")
    spec = ContainerSpec(
        name="sbx-t.m.small", image="", command=("/bin/true",), env={},
        labels={"sbx.topology": "t", "sbx.attempt": "1"}, work=str(tmp_path),
    )  # fmt: skip
    end = await ends(runtime, spec)
    await runtime.remove(spec.name)
    await runtime.close()

    assert (end.code, end.memory_peak, end.cpu_seconds is None) == (0, None, False)
