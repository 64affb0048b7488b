"""Ways of running a program for a message, as far as the installed package knows them.

A row of a table is a `Mode`; one that this version, or this host, does not have is a gap with the
reason, so that a table always shows all of them.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec

from bench.bare_containers import socket_path
from scalebox_actors.runtimes.choose import KINDS
from scalebox_actors.topology.model import Launch, Module, Topology

FUNCTION = "function"


class Mode(msgspec.Struct, frozen=True, kw_only=True):
    """One way: a runtime, and what a module says to be run that way."""

    name: str
    runtime: str = ""
    """Empty: no runtime is needed."""
    fields: Mapping[str, object] = {}
    """Of the module, as in a topology file."""

    @property
    def missing(self) -> str:
        """Why it cannot be measured here, or nothing."""
        launch = str(self.fields.get("launch", Launch.FRESH))
        if launch not in {known.value for known in Launch}:
            return f"this version has no launch mode `{launch}`"
        unknown = set(self.fields) - set(Module.__struct_fields__)
        if unknown:
            return f"this version has no field `{min(unknown)}`"
        if self.runtime and self.runtime not in KINDS:
            return f"this version has no runtime `{self.runtime}`"
        if self.runtime == "docker" and not Path(socket_path()).exists():
            return "no engine answers at DOCKER_HOST; see `make bench`"
        if self.runtime == "oci" and not (shutil.which("crun") or shutil.which("runc")):
            return "neither crun nor runc is installed"
        if self.runtime == "oci" and not shutil.which("busybox"):
            return "no image for the store of `oci`: no busybox here (busybox-static)"
        return ""

    def topology(self, name: str, **fields: object) -> Topology:
        """Return a topology of one module, `only`, that is run this way."""
        module = msgspec.convert({"name": "only", **fields, **self.fields}, Module, strict=False)
        return Topology(name=name, modules={"only": module})


FRESH_PROCESS = Mode(name="process, fresh", runtime="process")
FRESH_DOCKER = Mode(name="docker, fresh", runtime="docker")
WARM_DOCKER = Mode(name="docker, warm", runtime="docker", fields={"warm": 4})
SLOT_PROCESS = Mode(name="process, slot", runtime="process", fields={"launch": Launch.SLOT})
SLOT_DOCKER = Mode(name="docker, slot", runtime="docker", fields={"launch": Launch.SLOT})
RESIDENT_PROCESS = Mode(
    name="process, resident", runtime="process", fields={"launch": Launch.RESIDENT}
)
RESIDENT_DOCKER = Mode(
    name="docker, resident", runtime="docker", fields={"launch": Launch.RESIDENT}
)
MODES = (
    Mode(name="function", fields={"launch": FUNCTION, "function": "functions:swallow"}),
    FRESH_PROCESS,
    SLOT_PROCESS,
    RESIDENT_PROCESS,
    FRESH_DOCKER,
    WARM_DOCKER,
    SLOT_DOCKER,
    RESIDENT_DOCKER,
    Mode(name="oci, fresh", runtime="oci"),
    Mode(name="oci, warm", runtime="oci", fields={"warm": 4}),
    Mode(name="oci, slot", runtime="oci", fields={"launch": Launch.SLOT}),
    Mode(name="oci, resident", runtime="oci", fields={"launch": Launch.RESIDENT}),
)
