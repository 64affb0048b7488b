"""The shepherd: a small process that outlives the node and looks after its runs.

The runtimes `process` and `oci` start one per state directory. It starts programs or containers,
drains what they print, waits for them and writes down how they ended, so that a node which is
killed and comes back finds its runs as it left them. It is started with `python -m`, needs the
standard library only, and speaks JSON lines over a unix socket. When it has neither run nor client
for a while it ends.

What must outlive the shepherd itself is one journal: a line for a start, an end, a removal. A
shepherd that follows a killed one reads it. Containers have keepers that live on, and it takes them
over; processes it ends (only a parent is told an exit code) and reports as lost. Nothing is synced:
after a power cut no program runs anyway.
"""

import math
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from resource import RUSAGE_SELF, getrusage

from scalebox_actors.runtimes.shepherd_client import MALFORMED, Client, Clients
from scalebox_actors.runtimes.shepherd_journal import Journal, Json
from scalebox_actors.runtimes.shepherd_lanes import Lanes
from scalebox_actors.runtimes.shepherd_process import AGAIN
from scalebox_actors.runtimes.shepherd_program import (
    LOOK_AGAIN,
    PID,
    Output,
    Program,
    keepers,
    mark_of,
    own_children,
    why,
)

IDLE = 20.0
"""Without run and client the shepherd ends after so many seconds."""
JOURNAL_BYTES = 4 * 1024 * 1024
BLOCK = 512
"""What the kernel counts blocks of input and output in, whatever the disk's own are."""


class Shepherd:
    """Everything the shepherd knows, and the loop in which it learns."""

    def __init__(self, state: str, listener: socket.socket, kind: type[Program]) -> None:
        self.state, self.kind = state, kind
        self.journal = Journal(f"{state}/journal")
        self.programs: dict[str, Program] = {}
        self.living: dict[int, Program] = {}
        self.lanes = Lanes()
        self.stuck: dict[str, float] = {}
        """Lanes in which somebody could not be begun, and when that is tried again."""
        self.pipes: dict[int, Output] = {}
        self.adopted: dict[int, Program] = {}
        """By the descriptor of their process: living runs whose parent we are not."""
        self.poll = select.epoll()
        self.clients = Clients(listener, self.poll, self._obey)
        self.woken, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for quiet in (signal.SIGHUP, signal.SIGINT):
            signal.signal(quiet, signal.SIG_IGN)
        self.poll.register(self.woken, select.EPOLLIN)
        self._recover()
        # From here on everything that is printed is read; before, keepers see to it themselves.
        with open(f"{state}/{PID}", "w") as file:  # noqa: PTH123
            file.write(f"{os.getpid()}\n")

    # --- what an earlier shepherd left --------------------------------------------------------

    def _recover(self) -> None:
        for line in self.journal.found:
            if "run" in line:
                program = self.kind(self.state, line["run"])
                self.programs[program.name] = program
            elif line.get("end") in self.programs:
                self.programs[line["end"]].exit = line["exit"]
            elif "rename" in line:
                self._call(line["rename"], line["to"])
            else:
                gone = line.get("gone", ())
                for name in [gone] if isinstance(gone, str) else gone:  # older ones wrote one
                    self.programs.pop(name, None)
        self.journal.found.clear()
        known = {p.id: p for p in self.programs.values() if p.exit is None}
        for pid, run in keepers(self.state):
            if run in known and known[run].pid == 0 and known[run].resume(pid):
                self._tend(known[run], os.pidfd_open(pid))
        for program in known.values():
            if program.pid == 0:
                program.exit = program.abandoned()
        self.kind.end_strays(self.state, {p.id: p for p in self.programs.values()})
        self._compact()

    def _compact(self) -> None:
        known = (p for p in self.programs.values() if p.asked is None)  # else it has not begun
        lines = [{"run": {**p.kept, "exit": p.exit}} for p in known]
        try:
            self.journal.begin(lines)
        except OSError:  # a full disk
            self.journal.go_on()

    # --- the loop -------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until there has been nothing to do for a while."""
        idle_since = time.monotonic()
        while True:
            for fd, event in self.poll.poll(self._patience()):
                self._happened(fd, event)
            now = time.monotonic()
            self._do_what_is_due(now)
            if self.living or self.clients:
                idle_since = now
            elif now - idle_since >= IDLE:
                return

    def _patience(self) -> float:
        due = [p.kill_at for p in self.living.values() if p.kill_at]
        due += [p.due[0] for p in self.living.values() if p.due]
        due += [self.clients.due] if self.clients.due else []
        due += self.stuck.values()
        return max(0.0, min([*due, time.monotonic() + IDLE]) - time.monotonic()) + 0.001

    def _happened(self, fd: int, event: int) -> None:
        if fd == self.woken:
            os.read(self.woken, 4096)
            self._reap()
        elif fd in self.pipes:
            if not self.pipes[fd].drain():
                self._forget_pipe(fd)
        elif fd in self.adopted:
            self._lost_sight(fd)
        else:
            self.clients.happened(fd, event)

    def _forget_pipe(self, fd: int) -> None:
        if self.pipes.pop(fd, None) is not None:
            self.poll.unregister(fd)

    def _do_what_is_due(self, now: float) -> None:
        if self.clients.due and self.clients.due <= now:
            self.clients.tell_kept()
        for lane in [name for name, at in self.stuck.items() if at <= now]:
            del self.stuck[lane]
            self._advance(lane)
        for program in self.living.values():
            if program.kill_at and program.kill_at <= now:
                program.kill_at, program.due = 0.0, None
                program.kill()
            elif program.due and program.due[0] <= now:
                step, program.due = program.due[1], None
                step()

    # --- clients --------------------------------------------------------------------------------

    def _obey(self, client: Client, message: Json) -> None:
        number = message["n"]

        def answer(**fields: object) -> None:
            self.clients.send(client, {"n": number, **fields})

        try:
            self._do(message, answer)
        except MALFORMED as error:
            answer(error=why(error))

    def _do(self, message: Json, answer: Callable[..., None]) -> None:
        match message["do"]:
            case "start":
                self._start(message["run"], answer)
            case "find":
                program = self.programs.get(message["name"])
                answer(run=program and program.told())
            case "rename":
                self._rename(message["name"], message["to"], message["id"], answer)
            case "withdraw":
                self._withdraw(message["name"], message["id"], answer)
            case "lanes":
                answer(lanes=True)
            case "stop":
                self._stop(message["name"], message["grace"], answer)
            case "remove":
                # Nodes that are older know one name only.
                names = dict.fromkeys(message.get("names") or [message["name"]])
                self._remove([self.programs[n] for n in names if n in self.programs], answer)
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
        program = self.kind(self.state, asked)
        if old is not None:
            self._remove([old], lambda **_: self._start(asked, answer))
            return
        try:
            if not self.lanes.sit(program, asked):
                self.programs[program.name] = program
                answer(run=program.told(), adopted=False)
                return
            self._begin(program, asked)
        except (OSError, *MALFORMED) as error:
            answer(error=why(error), again=getattr(error, "errno", 0) in AGAIN)
            self._leave(program)
            return
        answer(run=program.told(), adopted=False)
        if program.exit is not None:
            self._leave(program)

    def _begin(self, program: Program, asked: Json) -> None:
        program.begin(asked)
        # Killed before this line is written, the next shepherd still finds and ends what runs by
        # the mark in its environment, and knows nothing of a run: it is started anew.
        self.journal.write(run=program.kept)
        self.programs[program.name] = program
        if program.exit is None:
            self._tend(program)
        else:
            self.journal.write(end=program.name, exit=program.exit)

    def _leave(self, program: Program) -> None:
        """Let a run go from its lane, and begin those whose turn it is by that."""
        self.lanes.leave(program)
        self._advance(program.lane)

    def _advance(self, lane: str) -> None:
        for program, asked in self.lanes.next(lane):
            try:
                self._begin(program, asked)
            except (OSError, *MALFORMED) as error:
                if getattr(error, "errno", 0) in AGAIN:  # the host has no room just now
                    self.lanes.put_back(program, asked)
                    self.stuck[lane] = time.monotonic() + LOOK_AGAIN
                    return
                program.exit = program.end(code=126, not_started=True, detail=why(error))
            if program.exit is not None:
                self.lanes.leave(program)
                self._tell(program)

    def _tend(self, program: Program, process: int = -1) -> None:
        """Look after a run that lives; `process`: its descriptor, if it is no child of ours."""
        self.living[program.pid] = program
        for output in program.outputs:
            self.pipes[output.pipe] = output
            self.poll.register(output.pipe, select.EPOLLIN)
        if process >= 0:
            self.adopted[process] = program
            self.poll.register(process, select.EPOLLIN)

    def _lost_sight(self, process: int) -> None:
        program = self.adopted.pop(process)
        self.poll.unregister(process)
        os.close(process)
        if self.living.pop(program.pid, None) is not None:
            self._end(program, program.over(0, {}))

    def _rename(self, old: str, new: str, run: str, answer: Callable[..., None]) -> None:
        """Give a run another name, which must be free: the line in the journal is the act."""
        taken, program = self.programs.get(new), self.programs.get(old)
        if taken is None and program is not None:
            self.journal.write(rename=old, to=new)
            self._call(old, new)
            taken = program
        if taken is not None and taken.id == run:  # perhaps since the question before
            answer(run=taken.told())
        else:
            answer(error=f"{new} is taken" if taken else f"there is no {old}")

    def _call(self, old: str, new: str) -> None:
        program = self.programs.pop(old, None)
        if program is not None:
            program.name = program.kept["name"] = new
            self.programs[new] = program

    def _withdraw(self, name: str, run: str, answer: Callable[..., None]) -> None:
        """Forget a run that waits for its turn; one whose turn has come is told."""
        program = self.programs.get(name)
        if program is None or program.id != run:
            answer()
        elif program.asked is not None:
            self._remove([program], lambda **_: answer())
        else:
            answer(run=program.told())

    def _stop(self, name: str, grace: float, answer: Callable[..., None]) -> None:
        program = self.programs.get(name)
        if program is None or program.exit is not None:
            answer()
            return
        if program.asked is not None:
            self._leave(program)
            program.started = time.time()
            self._settle(program, program.end(code=128 + signal.SIGTERM))
            answer()
            return
        program.then.append(answer)
        program.kill_at = min(program.kill_at or math.inf, time.monotonic() + grace)
        program.terminate()

    def _remove(self, programs: list[Program], answer: Callable[..., None]) -> None:
        # Asked for again while one of them dies, its name may be another run's at its end.
        found = [program for program in programs if self.programs.get(program.name) is program]
        for program in found:
            if program.asked is not None:
                self._leave(program)
                program.exit = program.end(code=128 + signal.SIGKILL)
            elif program.exit is None:
                program.then.append(lambda: self._remove(found, answer))
                program.kill()
                return
        for program in found:
            del self.programs[program.name]
            program.forget()
        if found:
            self.journal.write(gone=[program.name for program in found])
            if self.journal.size > JOURNAL_BYTES * (1 + len(self.programs) // 1000):
                self._compact()
        answer()

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
                program.sweep()
            _, status, usage = os.wait4(known.si_pid, 0)
            if program is not None:
                code = os.waitstatus_to_exitcode(status)
                used = {
                    "cpu_seconds": usage.ru_utime + usage.ru_stime,
                    "io_read_bytes": usage.ru_inblock * BLOCK,
                    "io_write_bytes": usage.ru_oublock * BLOCK,
                }
                if usage.ru_maxrss > getrusage(RUSAGE_SELF).ru_maxrss:
                    # Else it may be ours: what we had when we started it counts as the program's.
                    used["memory_peak"] = usage.ru_maxrss * 1024
                over.append((program, program.over(code if code >= 0 else 128 - code, used)))
        self._sweep()
        for program, end in over:
            self._end(program, end)

    def _end(self, program: Program, end: Json) -> None:
        for output in program.outputs:
            self._forget_pipe(output.pipe)
            output.drain()
            output.close()
        end["stdout_size"], end["stderr_size"] = (output.size for output in program.outputs)
        self._settle(program, end)
        self._leave(program)

    def _settle(self, program: Program, end: Json) -> None:
        self.journal.write(end=program.name, exit=end)
        program.exit, then, program.then = end, program.then, []
        self._tell(program)
        for step in then:
            step()

    def _tell(self, program: Program) -> None:
        news = {"name": program.name, "id": program.id, "exit": program.exit}
        self.clients.tell(news, soon=not self.lanes.waits(program.lane))

    def _sweep(self) -> None:
        """Kill descendants that left their group and whose program has ended.

        They became our children because we are their subreaper. Each one killed is reaped, which
        brings us here again for its own children.
        """
        running = {program.id for program in self.living.values()}
        for pid in own_children():
            if pid in self.living:
                continue
            state, _, run = mark_of(pid).rpartition(b"/")
            if state and os.fsdecode(run) not in running:
                os.kill(pid, signal.SIGKILL)
