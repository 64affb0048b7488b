"""What containers used: each gets a control group of its own above that of the engine.

An engine removes a container's group at its end; the one above it is ours and stays until the
container is removed. Works with engines of this host whose cgroup driver is `cgroupfs`, and needs
the right to make groups: without, usage is left out and said once why. Bytes to and from disks
are known with cgroup v2 only.
"""

import logging
import secrets
from collections.abc import Collection, Mapping

import msgspec

from scalebox_actors.ports import Exit
from scalebox_actors.runtimes.cgroup_files import Reading
from scalebox_actors.runtimes.cgroups import Cgroups, host_layout
from scalebox_actors.runtimes.docker_body import Traits

HOME = "/sbx"
"""Where our groups are: `/sbx/<node>/<container's name>~<random>`."""

log = logging.getLogger(__name__)


class Meter:
    """Makes, reads and removes the groups of one engine's containers."""

    def __init__(self, groups: Cgroups, fault: str = "") -> None:
        self.fault = fault
        """Why nothing is measured; empty if something is."""
        self._groups = groups
        self._parents: dict[str, str] = {}
        """Container to its group, for those that somebody has in hand."""
        self._begun: set[str] = set()

    @classmethod
    def of(cls, traits: Traits, host: str) -> "Meter":
        """Return what measures an engine's containers, or says why it cannot. Blocks a little."""
        groups = Cgroups(host_layout())
        fault = fault_of(traits, host, groups.layout.version)
        if not fault:
            probe = f"{HOME}/-/{secrets.token_hex(4)}"
            try:
                groups.make(probe)
            except OSError as error:
                fault = f"no right to make control groups: {error.strerror}"
            else:
                groups.remove(probe)
        if fault:
            log.info("usage_unknown", extra={"why": fault})
        return cls(groups, fault)

    def begin(self, name: str, labels: Mapping[str, str]) -> str:
        """Make the group of a container that is about to be created; empty if there is none."""
        if self.fault:
            return ""
        # The random part: what an earlier container of that name used is not this one's.
        parent = f"{HOME}/{labels.get('sbx.node', '-')}/{name}~{secrets.token_hex(4)}"
        try:
            self._groups.make(parent)
        except OSError as error:
            log.warning("usage_unknown", extra={"run": name, "why": error.strerror})
            return ""
        self._begun.add(parent)
        return parent

    def note(self, container: str, parent: str) -> None:
        """Remember the group of a container, so that it goes with it."""
        if parent.startswith(f"{HOME}/"):
            self._parents[container] = parent

    def measured(self, end: Exit, parent: str) -> Exit:
        """Add to an end what the container used."""
        if self.fault or not parent.startswith(f"{HOME}/"):
            return end
        reading = self._groups.read(parent)
        if not reading.cpu_seconds:  # the engine has put it elsewhere: in a namespace of its own
            reading = Reading()
        if self._groups.layout.version == 1:
            # There a group forgets what groups below it moved as soon as these are gone.
            reading = reading._replace(io_read_bytes=None, io_write_bytes=None)
        return msgspec.structs.replace(end, **reading._asdict())

    def end(self, container: str) -> None:
        """Remove the group of a container that was removed."""
        # Killed before this, the group is left; a later sweep finds that it is nobody's.
        self.drop(self._parents.pop(container, ""))

    def drop(self, parent: str) -> None:
        """Remove a group that nothing runs in."""
        if parent and not self.fault:
            self._begun.discard(parent)
            self._groups.remove(parent)

    def sweep(self, node: str, topology: str, kept: Collection[str]) -> None:
        """Remove the groups that a node left, killed between a container's end and theirs."""
        if self.fault or not (node and topology):
            return
        home = f"{HOME}/{node}"
        for name in self._groups.below(home):
            parent = f"{home}/{name}"
            mine = name.startswith(f"sbx-{topology}.")
            if mine and parent not in kept and parent not in self._begun:
                self._groups.remove(parent)


def fault_of(traits: Traits, host: str, version: int) -> str:
    """Return why an engine's containers cannot be measured, or nothing. Pure."""
    if not host.startswith("unix://"):
        return "the engine is not on this host"
    if traits.cgroup_driver != "cgroupfs":
        driver = traits.cgroup_driver or "unknown"
        return f"the engine's cgroup driver is {driver}, not cgroupfs"
    if not version:
        return "no control groups are mounted here"
    if traits.cgroup_version not in ("", str(version)):
        return f"the engine uses cgroup v{traits.cgroup_version}, this host v{version}"
    return ""
