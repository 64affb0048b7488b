"""A container that the shepherd looks after, started by crun or runc. Standard library only.

Its place is a directory named by the run's id: the bundle (config.json), the writable part of its
root file system, two pipes with names and what was drained out of them. A *keeper*, a shell with
a few lines, starts the container runtime there, waits for it and writes its exit code down. Keeper
and container outlive the shepherd; the next one finds the keeper by the mark in its environment,
or the code that it wrote. Until there is one, an output that fills its pipe waits.
"""

import contextlib
import errno
import fcntl
import json
import os
import signal
import time
import zlib
from collections.abc import Mapping
from functools import cache

from scalebox_actors.runtimes.shepherd_cgroup import (
    INNER,
    PARENT,
    Bond,
    Group,
    groups_named,
)
from scalebox_actors.runtimes.shepherd_journal import Json, write_all
from scalebox_actors.runtimes.shepherd_kernel import (
    MS_NODEV,
    in_user_namespace,
    mount,
    read_text,
    unmount,
)
from scalebox_actors.runtimes.shepherd_program import (
    LOOK_AGAIN,
    MARK,
    PID,
    Output,
    Program,
    children_of,
    keepers,
    mark_of,
    size_of,
    unlink,
)
from scalebox_actors.runtimes.shepherd_removal import remove

SHELL = "/bin/sh"
INIT = "/dev/init"
"""What a container executes first: an init of the host, mounted where it hides nothing."""
# The runtime and the container get the ends for writing only, and nothing of the mark or the lock.
# Where there is no shepherd at the end, what is still in the pipes would go with them.
KEEPER = f"""{MARK}= "$@" >out 2>err 3>&- 4>&- 5>&-
echo $? 1<>exit
read -r shepherd <../{PID} && read -r _ _ now _ <"/proc/$shepherd/stat" && [ "$now" != Z ] && exit
dd iflag=nonblock bs=64k <out >>stdout
dd iflag=nonblock bs=64k <err >>stderr
"""
NO_CODE = b"   \n"
"""As long as any code: when the container has ended the disk may have no room for it."""
RUNTIME_STATE, ROOTS = "runtime", "roots"
"""In the state directory: the container runtime's own state, and root file systems."""
LAYERS = ("root", "upper", "over")
PLAIN = ("config.json", "exit", "pid", "runtime.log", "out", "err")
LOGS = ("stdout", "stdout.old", "stderr", "stderr.old")
WORDS = 4096
"""The most that is read of what the container runtime complains about."""
PATIENCE = 5.0
"""Seconds in which what nobody knows has to end, all of it together."""
UNFIT = (errno.EINVAL, errno.EOPNOTSUPP, errno.EREMOTE)
"""What a file system says that cannot hold the writable part of an overlay."""
ROOM = 256 * 1024
"""Bytes on the state's disk below which no complaint of a container runtime is for ever."""
PASSING = ("resource temporarily unavailable", "no space left", "cannot allocate memory")
_volatile = ",volatile"


class Container(Program):
    """A run in a container; its keeper is the process that we wait for."""

    def __init__(self, state: str, asked: Json) -> None:
        super().__init__(state, asked)
        self.place = f"{state}/{self.id}"
        self.layers = f"{state}/{ROOTS}/{self.id}"
        self._tag = group_name(state, self.id)
        self.bond = self._bond()
        self._killed = False

    def _bond(self) -> Bond:
        return Group(self._tag)

    @staticmethod
    def end_strays(state: str, known: Mapping[str, Program]) -> None:
        """End containers that nobody knows, and remove what a killed shepherd left of others."""
        living = {run for run, program in known.items() if program.pid}
        _end_keepers([pid for pid, run in keepers(state) if run not in living])
        for name in groups_named(group_name(state, "")):
            if name.rpartition("-")[2] not in living:
                group = Group(name)
                group.end_processes()
                group.remove()
        kept = {state: {*known, RUNTIME_STATE, ROOTS}, f"{state}/{RUNTIME_STATE}": living}
        for place, names in {**kept, f"{state}/{ROOTS}": living}.items():
            for entry in list(os.scandir(place)):
                if entry.is_dir(follow_symlinks=False) and entry.name not in names:
                    remove(entry.path)

    def log(self, output: str) -> str:
        """Return where an output is kept."""
        return f"{self.place}/{output}"

    def begin(self, asked: Json) -> None:
        """Furnish its place and start its keeper."""
        box = asked["box"]
        self.kept["box"] = {"log_bytes": asked["log_bytes"]}  # a follower needs no more
        if refused := box.get("refused"):
            self.exit = self.end(code=126, not_started=True, detail=refused)
            return
        self.started = time.time()
        os.mkdir(self.place, 0o700)  # noqa: PTH102
        try:
            os.chdir(self.place)
            lock = os.open(box["lock"], os.O_RDONLY | os.O_CLOEXEC)
            try:
                # Held by the keeper: as long as it runs the image is not removed.
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                self._furnish(box)
                self.outputs = self._open_outputs(asked["log_bytes"])
                self.pid = self._spawn(box["runtime"], lock)
            finally:
                os.close(lock)
        except Exception:
            self._close_outputs()
            self._clear()
            self.forget()
            raise
        finally:
            os.chdir("/")

    def _furnish(self, box: Json) -> None:
        config = box["config"]
        config["root"]["path"] = f"{self.layers}/root"
        config["linux"]["cgroupsPath"] = f"/{PARENT}/{self._tag}/{INNER}"
        for name, text in (("config.json", json.dumps(config).encode()), ("exit", NO_CODE)):
            file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                write_all(file, text)
            finally:
                os.close(file)
        for name in ("out", "err"):
            os.mkfifo(name, 0o600)
        self.bond.make(box.get("memory"))
        for name in ("", *LAYERS):
            os.mkdir(f"{self.layers}/{name}", 0o755)  # noqa: PTH102
        lower = os.open(box["lower"], os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            facts = os.fstat(lower)
            os.chdir(self.layers)
            os.chown("upper", facts.st_uid, facts.st_gid)
            os.chmod("upper", facts.st_mode & 0o7777)  # noqa: PTH101 - seen as the mode of /
            _overlay(f"/proc/self/fd/{lower}")
        finally:
            os.close(lower)
            os.chdir(self.place)

    def _open_outputs(self, bound: int) -> tuple[Output, ...]:
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        pairs = (("out", "stdout"), ("err", "stderr"))
        return tuple(
            Output(self.log(log), os.open(f"{self.place}/{pipe}", flags), bound)
            for pipe, log in pairs
        )

    def _spawn(self, runtime: list[str], lock: int) -> int:
        root, log = f"{self.state}/{RUNTIME_STATE}", f"{self.place}/runtime.log"
        program, *options = runtime
        argv = [SHELL, "-c", KEEPER, "keeper", program, "--root", root, "--log", log, *options]
        argv += ["run", "--pid-file", f"{self.place}/pid", "--bundle", self.place, self.id]
        return os.posix_spawn(
            SHELL,
            argv,
            {MARK: self.mark, "PATH": os.defpath},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                # For reading too: while the keeper lives nobody writes into a broken pipe.
                (os.POSIX_SPAWN_OPEN, 4, "out", os.O_RDWR, 0),
                (os.POSIX_SPAWN_OPEN, 5, "err", os.O_RDWR, 0),
                (os.POSIX_SPAWN_DUP2, lock, 3),
                (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP, signal.SIGINT],
        )

    def resume(self, pid: int) -> bool:
        """Take over its keeper."""
        if self.exit is not None:
            return False
        try:
            self.outputs = self._open_outputs(self.kept["box"]["log_bytes"])
        except OSError:
            return False
        self.bond.set_alarm()
        self.pid = pid
        return True

    def terminate(self) -> None:
        """Signal its first process, an init that passes it on, once that one can hear it."""
        first = self._first()
        # An init that has a child waits for signals; one that comes earlier may be dropped. What
        # the container runtime does there before has another name, and may have children, too.
        init = read_text(f"/proc/{first}/comm").strip() == os.path.basename(INIT)  # noqa: PTH119
        if init and children_of(first):
            with contextlib.suppress(ProcessLookupError):
                os.kill(first, signal.SIGTERM)
        else:
            self.later(self.terminate)

    def kill(self) -> None:
        """End its first process, with which everything in it ends; or what is to become of it."""
        self._killed = True
        first = self._first()
        for pid in [first] if first else children_of(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not first:
            self.later(self.kill)

    def _first(self) -> int:
        """Return the container's first process, if it has one by now."""
        found = [child for runtime in children_of(self.pid) for child in children_of(runtime)]
        return found[0] if found else 0

    def sweep(self) -> None:
        """Do nothing: what is left is found by what holds it together."""

    def over(self, code: int, used: Json) -> Json:  # noqa: ARG002 - of the keeper, which has none
        """Say how it ended, by what its keeper wrote down and its processes used."""
        return self._told_end()

    def abandoned(self) -> Json:
        """Say how it ended: the keeper wrote it down, shepherd or not."""
        full = self.bond.was_full()
        end = self._told_end()
        if full and end["code"] == 128 + signal.SIGKILL and not end.get("lost"):
            end["out_of_memory"] = True  # most likely: no shepherd was there to kill it
        for name in ("stdout", "stderr"):
            end[f"{name}_size"] = size_of(self.log(name))
        return end

    def _told_end(self) -> Json:
        left = self.bond.end_processes()
        code = read_text(f"{self.place}/exit").strip()
        end = self.end(**self.bond.usage(), **self._verdict(code))
        if left and not self._killed:  # its keeper or the container runtime were, under it
            end.update(code=128 + signal.SIGKILL, lost=True, detail="its keeper was killed")
        if code:
            end["finished"] = os.stat(f"{self.place}/exit").st_mtime  # noqa: PTH116
        self._clear()
        return end

    def _verdict(self, code: str) -> Json:
        if not code:
            return {"code": 128 + signal.SIGKILL, "lost": True, "detail": "its keeper was killed"}
        if int(code) > 128:  # noqa: PLR2004 - ended by a signal, ours or somebody else's
            return {"code": int(code)}
        # Written when the container stands. What can fail after that fails for every container, and
        # so did the first one, before any task: see `OciRuntime.over`.
        # Killed while it was being made, it is no container that could not be started.
        stood = os.path.exists(f"{self.place}/pid")  # noqa: PTH110
        full = (not stood or code != "0") and self._is_full()
        if (stood and not full) or self._killed:
            return {"code": int(code) if stood else 128 + signal.SIGKILL}
        words = _complaint(read_text(f"{self.place}/runtime.log", WORDS))
        if stood and not words:
            return {"code": int(code)}
        words = words or f"the container runtime ended with exit code {code}"
        lost = full or any(piece in words.lower() for piece in PASSING)
        return {"code": 126, "lost": lost, "not_started": not lost, "detail": words}

    def _is_full(self) -> bool:
        """Whether the disk had no room for what the container runtime writes down."""
        disk = os.statvfs(self.place)
        return disk.f_bavail * disk.f_frsize < ROOM

    def _close_outputs(self) -> None:
        for output in self.outputs:
            output.close()
        self.outputs = ()

    def _clear(self) -> None:
        """Remove everything but its words; a writable root dies with its container."""
        self.bond.remove()
        with contextlib.suppress(OSError):
            unmount(f"{self.layers}/root")
        remove(self.layers)
        remove(f"{self.state}/{RUNTIME_STATE}/{self.id}")  # of a runtime that was killed
        unlink(*(f"{self.place}/{name}" for name in PLAIN))

    def _logs(self) -> list[str]:
        """Return which logs there may be: most runs print nothing."""
        if self.exit is None or self.exit.get("stdout_size") or self.exit.get("stderr_size"):
            return list(LOGS)
        return []

    def forget(self) -> None:
        """Remove its place."""
        unlink(*(f"{self.place}/{name}" for name in self._logs()))
        with contextlib.suppress(OSError):
            os.rmdir(self.place)  # noqa: PTH106


def _complaint(log: str) -> str:
    """Return the errors of the container runtime's log; runc writes other things there, too."""
    lines = [line.strip() for line in log.splitlines()]
    return "\n".join(line for line in lines if line and "level=warning" not in line)


def prepare(state: str) -> None:
    """Make a state directory fit for containers, in our own mount namespace.

    An overlay cannot lie on an overlay, nor on most network file systems: there, what containers
    write to their root file systems is kept in memory.
    """
    for name in (RUNTIME_STATE, ROOTS):
        os.makedirs(f"{state}/{name}", mode=0o700, exist_ok=True)  # noqa: PTH103
    probe = f"{state}/{ROOTS}/probe"
    remove(probe)
    for name in ("", "/lower", *(f"/{layer}" for layer in LAYERS)):
        os.mkdir(probe + name)  # noqa: PTH102
    try:
        os.chdir(probe)
        _overlay("lower")
        unmount("root")
    except OSError as error:
        if error.errno not in UNFIT:
            raise
        mount("none", f"{state}/{ROOTS}", "tmpfs", MS_NODEV, "mode=700")
    finally:
        os.chdir("/")
        remove(probe)


def group_name(state: str, run: str) -> str:
    """Return the name of a run's control group: by state directory, so that strays are known."""
    return f"{_tag_of(state)}-{run}"


@cache
def _tag_of(state: str) -> str:
    return f"{zlib.crc32(os.fsencode(state)):08x}{os.stat(state).st_ino:x}"  # noqa: PTH116


def _end_keepers(left: list[int]) -> None:
    """End keepers that nobody knows, with their containers, and return when they are gone."""
    deadline = time.monotonic() + PATIENCE
    while (left := [pid for pid in left if mark_of(pid)]) and time.monotonic() < deadline:
        for runtimes in map(children_of, left):
            firsts = [child for runtime in runtimes for child in children_of(runtime)]
            for one in firsts or runtimes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one, signal.SIGKILL)
        time.sleep(LOOK_AGAIN)


def _overlay(lower: str) -> None:
    """Mount a root file system of our own over a shared one, in the current directory."""
    global _volatile  # noqa: PLW0603 - what the kernel can do is found out once
    layers = f"lowerdir={lower},upperdir=upper,workdir=over"
    if in_user_namespace():  # what the overlay notes goes where its root may write
        layers += ",userxattr"
    try:
        # What dies with its container need not be synced to disk first.
        mount("overlay", "root", "overlay", MS_NODEV, layers + _volatile)
    except OSError as error:
        if error.errno != errno.EINVAL or not _volatile:
            raise
        mount("overlay", "root", "overlay", MS_NODEV, layers)
        _volatile = ""
