"""Launch mode `function`: an async Python callable in the node instead of a container."""

import asyncio
import importlib
import importlib.util
import inspect
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from scalebox_actors.contract import Cut, Emission, truncate
from scalebox_actors.errors import NODE_ENDS, BadInput, NotAdmitted
from scalebox_actors.message import Message
from scalebox_actors.ports import Task
from scalebox_actors.records import TIMED_OUT, UNUSABLE, Cause, Outcome
from scalebox_actors.staying import NothingStays
from scalebox_actors.topology.model import Module

Answer = None | bytes | str | Emission | Iterable[bytes | str | Emission]
Function = Callable[[Message], Awaitable[Answer]]


def load_function(path: str, folder: Path) -> Function:
    """Find `module:attribute`, looking in the topology's own folder first.

    Raises BadInput, with the reason, if there is no such coroutine function.
    """
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise BadInput(f"function {path!r} is not of the form `module:attribute`")
    try:
        module = _import(module_name, folder)
    except Exception as error:
        raise BadInput(f"function {path!r}: cannot import {module_name!r}: {error!r}") from error
    function = getattr(module, attribute, None)
    if function is None:
        raise BadInput(f"function {path!r}: {module_name!r} has no {attribute!r}")
    if not inspect.iscoroutinefunction(function):
        raise BadInput(f"function {path!r} is not an `async def`")
    return function  # type: ignore[no-any-return]  # checked to be a coroutine function


class FunctionLauncher(NothingStays):
    """Runs a module's tasks by awaiting its function; nothing outlives the call."""

    def __init__(self, module: Module, function: Function) -> None:
        self._module = module
        self._function = function
        self._deadlines = _Deadlines(module.timeout)
        self._closed = False

    @property
    def ends_runs(self) -> bool:
        """A call ends with its node."""
        return True

    @property
    def costly(self) -> bool:
        """A function is cheaper than a round trip; the commit fences in any case."""
        return False

    async def underway(self, task: Task) -> bool:
        """Nothing survives a node that died, so there is never anything to adopt."""
        del task
        return False

    async def run(self, task: Task) -> Outcome:
        """Await the function under the module's time limit; its exceptions are outcomes.

        An exception with an integer `exit_code` gives that exit code, any other 1; `sys.exit`
        gives its own, and ends no node. Raises NotAdmitted if the node ends before the function.
        """
        if self._closed:
            raise NotAdmitted(NODE_ENDS)
        started = time.time()
        me = self._deadlines.enter()
        try:
            emissions = tuple(_emissions(await self._function(task.message)))
        except asyncio.CancelledError:
            if not self._deadlines.passed(me):
                raise
            if self._closed:
                raise NotAdmitted(NODE_ENDS) from None
            detail = f"ended at its timeout of {self._module.timeout:g} s"
            return _failed(started, TIMED_OUT, Cause.TIMEOUT, detail)
        except _UnusableAnswerError as error:
            return _failed(started, UNUSABLE, Cause.BAD_OUTPUT, str(error))
        except (Exception, SystemExit) as error:  # whatever a user's function raises
            if self._closed and self._deadlines.passed(me):  # it made that of our cancellation
                raise NotAdmitted(NODE_ENDS) from error
            return self._raised(started, error)
        finally:
            self._deadlines.leave(me)
        return Outcome(exit_code=0, started=started, finished=time.time(), emissions=emissions)

    async def stop(self, task: Task) -> None:
        """Functions are not interrupted: a late commit of a cancelled task loses."""

    async def clear(self, task: Task, outcome: Outcome | None = None) -> None:
        """Nothing is left behind by a function."""

    async def ready(self) -> None:
        """Return at once: a function that was loaded can always start."""

    async def close(self) -> None:
        """Cancel the calls that have not returned."""
        self._closed = True
        self._deadlines.pass_all()

    def _raised(self, started: float, error: Exception | SystemExit) -> Outcome:
        code = error.code if isinstance(error, SystemExit) else getattr(error, "exit_code", 1)
        code = code if isinstance(code, int) and 0 < code < 256 else 1  # noqa: PLR2004 - a byte
        text = "".join(traceback.format_exception(error)).encode("utf-8", "replace")
        cut = truncate(text, self._module.output_text_size, self._module.text_trunc_mode.value)
        detail = f"{type(error).__name__}: {error}"
        return Outcome(
            exit_code=code,
            started=started,
            finished=time.time(),
            stderr=cut,
            detail=detail[:500],
        )


class _Deadlines:
    """One time limit for many tasks: one timer for whichever began first, not one for each."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ends: dict[asyncio.Task[object], float] = {}
        self._late: set[asyncio.Task[object]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def enter(self) -> "asyncio.Task[object]":
        """Begin the time of the current task."""
        loop = asyncio.get_running_loop()
        me = asyncio.current_task(loop)
        if me is None:
            raise RuntimeError("functions are run in tasks")
        self._ends[me] = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._look)
        return me

    def leave(self, me: "asyncio.Task[object]") -> None:
        """End the time of a task."""
        self._ends.pop(me, None)
        self._late.discard(me)

    def passed(self, me: "asyncio.Task[object]") -> bool:
        """Whether it was us who cancelled a task; if so, take the cancellation back."""
        if me not in self._late:
            return False
        me.uncancel()
        return True

    def pass_all(self) -> None:
        """End the time of all tasks now."""
        while self._ends:
            self._cancel(next(iter(self._ends)))

    def _cancel(self, task: "asyncio.Task[object]") -> None:
        del self._ends[task]
        self._late.add(task)
        task.cancel()

    def _look(self) -> None:
        """Cancel the tasks whose time is up; all have the same limit, so the oldest are first."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._timer = None
        for task, end in list(self._ends.items()):
            if end > now:
                self._timer = loop.call_at(end, self._look)
                break
            self._cancel(task)


class _UnusableAnswerError(Exception):
    """A function returned something that is no output."""


def _failed(started: float, code: int, cause: Cause, detail: str) -> Outcome:
    return Outcome(
        exit_code=code,
        cause=cause,
        detail=detail,
        started=started,
        finished=time.time(),
        stderr=Cut(text=detail, size=len(detail)),
    )


def _emissions(answer: object) -> Iterable[Emission]:
    if answer is None:
        return
    if isinstance(answer, bytes | str | Emission):
        yield _emission(answer)
    elif isinstance(answer, Iterable):
        for item in answer:
            yield _emission(item)
    else:
        raise _UnusableAnswerError(f"the function returned {type(answer).__name__}")


def _emission(item: object) -> Emission:
    if isinstance(item, Emission):
        return item
    if isinstance(item, str):
        return Emission(module=None, body=item.encode(), headers={})
    if isinstance(item, bytes):
        return Emission(module=None, body=item, headers={})
    raise _UnusableAnswerError(
        f"the function returned a {type(item).__name__}; outputs are bytes, str or Emission"
    )


def _import(name: str, folder: Path) -> object:
    """Import `name`, from a file in `folder` if there is one."""
    file = folder.joinpath(*name.split(".")).with_suffix(".py")
    if not file.is_file():
        return importlib.import_module(name)
    # Two topologies may both have a `total.py`: the folder is part of the name in sys.modules.
    unique = f"_sbx_{abs(hash(str(file.resolve())))}_{name.replace('.', '_')}"
    if unique in sys.modules:
        return sys.modules[unique]
    spec = importlib.util.spec_from_file_location(unique, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module
    spec.loader.exec_module(module)
    return module
