"""The shepherd: a small process that outlives the node and looks after its programs.

The process runtime starts one per state directory. It starts programs, drains what they print,
waits for them and writes down how they ended, so that a node which is killed and comes back finds
its runs as it left them. It is started with `python -m`, needs the standard library only, and
speaks JSON lines over a unix socket. When it has neither program nor client for a while it ends.

What must outlive the shepherd itself is one journal: a line for a start, an end, a removal. A
shepherd that follows a killed one reads it, ends what still runs (only a parent is told an exit
code) and reports those runs as lost. Nothing is synced: after a power cut no program runs anyway.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import math
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable

from scalebox_actors.runtimes.shepherd_journal import Journal, Json, line_of
from scalebox_actors.runtimes.shepherd_program import (
    MARK,
    Output,
    Program,
    end_all,
    ended,
    execute,
    mark_of,
)

IDLE = 20.0
"""Without program and client the shepherd ends after so many seconds."""
CLIENT_BACKLOG = 16 * 1024 * 1024
RECEIVED_AT_ONCE = 64 * 1024
"""More would be mapped and unmapped by the allocator for every question."""
JOURNAL_BYTES = 4 * 1024 * 1024
PR_SET_CHILD_SUBREAPER = 36
AGAIN = (errno.EAGAIN, errno.ENOMEM, errno.ENFILE, errno.EMFILE, errno.ENOSPC)


class Client:
    """A node that is connected."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.unread, self.unsent = bytearray(), bytearray()

    def flush(self) -> None:
        """Send what the socket takes; raises OSError when the client is gone or asleep."""
        while self.unsent:
            try:
                del self.unsent[: self.connection.send(self.unsent)]
            except BlockingIOError:
                break
        if len(self.unsent) > CLIENT_BACKLOG:
            raise OSError(errno.EPIPE, "the client does not read")


class Shepherd:
    """Everything the shepherd knows, and the loop in which it learns."""

    def __init__(self, state: str, listener: socket.socket) -> None:
        self.state = state
        self.journal = Journal(f"{state}/journal")
        self.programs: dict[str, Program] = {}
        self.living: dict[int, Program] = {}
        self.clients: dict[int, Client] = {}
        self.pipes: dict[int, Output] = {}
        self.listener, self.poll = listener, select.epoll()
        self.woken, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for quiet in (signal.SIGHUP, signal.SIGINT):
            signal.signal(quiet, signal.SIG_IGN)
        self.poll.register(listener, select.EPOLLIN)
        self.poll.register(self.woken, select.EPOLLIN)
        self._recover()

    # --- what an earlier shepherd left --------------------------------------------------------

    def _recover(self) -> None:
        for line in self.journal.found:
            if "run" in line:
                program = Program(line["run"])
                self.programs[program.name] = program
            elif line.get("end") in self.programs:
                self.programs[line["end"]].exit = line["exit"]
            else:
                for name in line.get("gone", ()):
                    self.programs.pop(name, None)
        self.journal.found.clear()
        end_all(f"{self.state}/".encode())
        for program in self.programs.values():
            if program.exit is None:
                program.exit = ended(program, code=128 + signal.SIGKILL, lost=True)
        self._compact()

    def _compact(self) -> None:
        lines = [{"run": {**p.kept, "exit": p.exit}} for p in self.programs.values()]
        self.journal.begin(lines)

    # --- the loop -------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until there has been nothing to do for a while."""
        idle_since = time.monotonic()
        while True:
            for fd, event in self.poll.poll(self._patience()):
                self._happened(fd, event)
            now = time.monotonic()
            self._kill_overdue(now)
            if self.living or self.clients:
                idle_since = now
            elif now - idle_since >= IDLE:
                return

    def _patience(self) -> float:
        due = [p.kill_at for p in self.living.values() if p.kill_at]
        return max(0.0, min([*due, time.monotonic() + IDLE]) - time.monotonic()) + 0.001

    def _happened(self, fd: int, event: int) -> None:
        if fd == self.woken:
            os.read(self.woken, 4096)
            self._reap()
        elif fd in self.pipes:
            if not self.pipes[fd].drain():
                self._forget_pipe(fd)
        elif fd == self.listener.fileno():
            connection, _ = self.listener.accept()
            connection.setblocking(False)
            self.clients[connection.fileno()] = Client(connection)
            self.poll.register(connection, select.EPOLLIN)
        elif fd in self.clients:
            self._serve(self.clients[fd], event)

    def _forget_pipe(self, fd: int) -> None:
        if self.pipes.pop(fd, None) is not None:
            self.poll.unregister(fd)

    def _kill_overdue(self, now: float) -> None:
        for program in self.living.values():
            if program.kill_at and program.kill_at <= now:
                program.kill_at = 0.0
                program.kill(signal.SIGKILL)

    # --- clients --------------------------------------------------------------------------------

    def _serve(self, client: Client, event: int) -> None:
        try:
            if event & select.EPOLLOUT:
                self._send(client)
            if event & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                data = client.connection.recv(RECEIVED_AT_ONCE)
                if not data:
                    self._drop(client)
                client.unread += data
                while (end := client.unread.find(b"\n")) >= 0:
                    line = bytes(client.unread[:end])
                    del client.unread[: end + 1]
                    self._obey(client, json.loads(line))
        except BlockingIOError:
            return
        except OSError:
            self._drop(client)

    def _drop(self, client: Client) -> None:
        fd = client.connection.fileno()
        if self.clients.pop(fd, None) is not None:
            self.poll.unregister(fd)
            client.connection.close()

    def _send(self, client: Client, message: Json | None = None) -> None:
        if client.connection.fileno() not in self.clients:
            return  # it left before its answer was ready
        waited = bool(client.unsent)
        if message is not None:
            client.unsent += line_of(message)
        try:
            client.flush()
        except OSError:
            self._drop(client)
            return
        if waited != bool(client.unsent):
            more = select.EPOLLOUT if client.unsent else 0
            self.poll.modify(client.connection, select.EPOLLIN | more)

    def _obey(self, client: Client, message: Json) -> None:
        def answer(**fields: object) -> None:
            self._send(client, {"n": message["n"], **fields})

        match message["do"]:
            case "start":
                self._start(message["run"], answer)
            case "find":
                program = self.programs.get(message["name"])
                answer(run=program and program.told())
            case "stop":
                self._stop(message["name"], message["grace"], answer)
            case "remove":
                self._remove(message["names"], answer)
            case "list":
                wanted = message["labels"].items()
                found = [p for p in self.programs.values() if wanted <= p.labels.items()]
                answer(runs=[p.told() for p in found])
            case word:
                answer(error=f"unknown request {word!r}")

    # --- programs -------------------------------------------------------------------------------

    def _start(self, asked: Json, answer: Callable[..., None]) -> None:
        old = self.programs.get(asked["name"])
        if old is not None and old.attempt >= asked["attempt"] and old.work == asked["work"]:
            answer(run=old.told(), adopted=True)
            return
        if old is not None:
            self._remove([old.name], lambda **_: self._start(asked, answer))
            return
        program = Program(asked)
        try:
            self._spawn(program, asked)
        except OSError as error:
            answer(error=f"{error.filename}: {error.strerror}", again=error.errno in AGAIN)
            return
        # Killed before this line is written, the next shepherd still finds and ends the program
        # by the mark in its environment, and knows nothing of a run: it is started anew.
        self.journal.write(run=program.kept)
        self.programs[program.name] = program
        if program.exit is not None:
            self.journal.write(end=program.name, exit=program.exit)
        answer(run=program.told(), adopted=False)

    def _spawn(self, program: Program, asked: Json) -> None:
        env = {**asked["env"], MARK: f"{self.state}/{program.name}"}
        outputs: list[Output] = []
        ends: list[int] = []
        try:
            for name in ("stdout", "stderr"):
                reader, writer = os.pipe2(os.O_CLOEXEC)
                os.set_blocking(reader, False)
                outputs.append(Output(self._log(program, name), reader, asked["log_bytes"]))
                ends.append(writer)
            program.started = time.time()
            os.chdir(program.work)
            program.pid = execute(asked["argv"], env, ends)
        except OSError as error:
            for output in outputs:
                output.close()
            if error.errno in AGAIN or error.filename == program.work:
                raise
            code = 127 if error.errno in (errno.ENOENT, errno.ENOTDIR) else 126
            detail = f"{asked['argv'][0]}: {error.strerror}"
            program.exit = ended(program, code=code, not_started=True, detail=detail)
            return
        finally:
            os.chdir("/")
            for end in ends:
                os.close(end)
        self.living[program.pid] = program
        program.outputs = tuple(outputs)
        for output in outputs:
            self.pipes[output.pipe] = output
            self.poll.register(output.pipe, select.EPOLLIN)

    def _stop(self, name: str, grace: float, answer: Callable[..., None]) -> None:
        program = self.programs.get(name)
        if program is None or program.exit is not None:
            answer()
            return
        program.then.append(answer)
        program.kill_at = min(program.kill_at or math.inf, time.monotonic() + grace)
        program.kill(signal.SIGTERM)

    def _remove(self, names: list[str], answer: Callable[..., None]) -> None:
        found = [self.programs[name] for name in names if name in self.programs]
        for program in found:
            if program.exit is None:
                program.then.append(lambda: self._remove(names, answer))
                program.kill(signal.SIGKILL)
                return
        for program in found:
            del self.programs[program.name]
            if any(o.size for o in program.outputs) or not program.outputs:
                for path in (self._log(program, name) for name in ("stdout", "stderr")):
                    _unlink(path, path + ".old")
        if found:
            self.journal.write(gone=[program.name for program in found])
            if self.journal.size > JOURNAL_BYTES * (1 + len(self.programs) // 1000):
                self._compact()
        answer()

    def _log(self, program: Program, name: str) -> str:
        return f"{self.state}/{program.name}.{name}"

    # --- ends -----------------------------------------------------------------------------------

    def _reap(self) -> None:
        over: list[tuple[Program, Json]] = []
        while True:
            try:
                known = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                break
            if known is None:
                break
            program = self.living.pop(known.si_pid, None)
            if program is not None:
                # As with a container: what it started goes with it. Not yet reaped, its number
                # is still its own, so nobody else can be hit.
                program.kill(signal.SIGKILL)
            _, status, usage = os.wait4(known.si_pid, 0)
            if program is not None:
                code = os.waitstatus_to_exitcode(status)
                end = ended(program, code=code if code >= 0 else 128 - code)
                end["cpu_seconds"] = usage.ru_utime + usage.ru_stime
                end["memory_peak"] = usage.ru_maxrss * 1024
                over.append((program, end))
        self._sweep()
        for program, end in over:
            self._close_outputs(program, end)
            self._settle(program, end)

    def _close_outputs(self, program: Program, end: Json) -> None:
        for output in program.outputs:
            self._forget_pipe(output.pipe)
            output.drain()
            output.close()
        end["stdout_size"], end["stderr_size"] = (output.size for output in program.outputs)

    def _settle(self, program: Program, end: Json) -> None:
        self.journal.write(end=program.name, exit=end)
        program.exit, then, program.then = end, program.then, []
        news = {"name": program.name, "id": program.kept["id"], "exit": end}
        for client in list(self.clients.values()):
            self._send(client, {"n": 0, "run": news})
        for step in then:
            step()

    def _sweep(self) -> None:
        """Kill descendants that left their group and whose program has ended.

        They became our children because we are their subreaper. Each one killed is reaped, which
        brings us here again for its own children.
        """
        try:
            with open(f"/proc/self/task/{os.getpid()}/children", "rb") as file:  # noqa: PTH123
                children = [int(word) for word in file.read().split()]
        except OSError:
            return  # a kernel without that file: only groups are killed
        for pid in children:
            if pid in self.living:
                continue
            state, _, name = mark_of(pid).rpartition(b"/")
            program = self.programs.get(os.fsdecode(name)) if state else None
            if state and (program is None or program.pid not in self.living):
                os.kill(pid, signal.SIGKILL)


def _unlink(*paths: str) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            os.unlink(path)  # noqa: PTH108


def main(state: str, address: str) -> int:
    """Take the state directory, listen, go into the background, serve."""
    lock = os.open(f"{state}/shepherd.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0  # another one is at work, or was started at the same moment
    if os.path.exists(address):  # noqa: PTH110
        os.unlink(address)  # noqa: PTH108 - of one that was killed; we hold its lock
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    if os.fork():
        os._exit(0)  # whoever started us sees a shepherd that listens
    os.setsid()
    os.chdir("/")
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    Shepherd(state, listener).run()
    os.unlink(address)  # noqa: PTH108
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
