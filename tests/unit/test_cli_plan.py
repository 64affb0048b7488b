"""Where `plan` looks for images: where `run` would take them from."""

from pathlib import Path

import pytest

from scalebox_actors.cli import plan
from scalebox_actors.errors import RuntimeUnavailable
from scalebox_actors.topology.model import Module, Topology

TOPOLOGY = Topology(name="t", modules={"m": Module(name="m", image="img", command=("x",))})


@pytest.mark.parametrize(("kind", "ready"), [(None, True), (None, False), ("oci", False)])
async def test_without_an_engine_the_store_is_looked_into_as_run_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str | None, ready: bool
) -> None:
    """If it is asked for, or this host was made ready for it; else nobody can tell."""

    async def no_engine(*_: object, **__: object) -> None:
        raise RuntimeUnavailable("no engine")

    async def unasked(images: Path) -> bool:
        assert images == tmp_path
        return ready

    monkeypatch.setattr(plan, "open_runtime", no_engine)
    monkeypatch.setattr(plan, "oci_unasked", unasked)

    images = await plan._images(TOPOLOGY, kind, tmp_path)

    looked = kind == "oci" or ready
    assert images.missing == (("img",) if looked else ())
    assert images.unknown == ("" if looked else "no engine")
