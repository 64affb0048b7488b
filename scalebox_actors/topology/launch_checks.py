"""How a module is launched: which fields go with which mode, and how far they go."""

from collections.abc import Iterator

from scalebox_actors import limits
from scalebox_actors.topology.findings import Finding, Path, between, error, warning
from scalebox_actors.topology.model import LASTING, Keep, Launch, Module
from scalebox_actors.topology.quantity import show_duration


def check_launch(at: Path, module: Module) -> Iterator[Finding]:
    """Check `warm`, `batch` and `keep` of a module that has containers."""
    if module.launch is Launch.FUNCTION:
        return
    yield from _warm((*at, "warm"), module)
    yield from _batch((*at, "batch"), module)
    yield from _keep((*at, "keep"), module)
    if module.args is not None and module.launch is Launch.RESIDENT:
        told = "`args` does not go with `launch: resident`: its program reads"
        yield error((*at, "args"), told, rests_on=launched_by(at))


def launched_by(at: Path) -> tuple[Path, ...]:
    """Return the fields that say how a module is launched."""
    return (*at, "launch"), (*at, "function")


def _warm(at: Path, module: Module) -> Iterator[Finding]:
    if not 0 <= module.warm <= limits.WARM_PER_MODULE:
        yield error(at, between("warm", module.warm, 0, limits.WARM_PER_MODULE))
    elif module.warm and module.launch is not Launch.FRESH:
        told = f"`warm` goes with `launch: fresh`, not with `{module.launch.value}`"
        yield error(at, told, rests_on=launched_by(at[:-1]))
    elif module.warm and module.limits.gpus:
        words = "`warm` has no effect with `limits.gpus`: a container that waits has no GPU"
        yield warning(at, words, at_key=True)


def _batch(at: Path, module: Module) -> Iterator[Finding]:
    if module.batch is None:
        return
    if module.launch is not Launch.SLOT:
        told = f"`batch` goes with `launch: slot`, not with `{module.launch.value}`"
        yield error(at, told, rests_on=launched_by(at[:-1]))
    most = limits.ATOMIC_BATCH_TASKS if module.batch.atomic else limits.BATCH_TASKS
    if not 1 <= module.batch.size <= most:
        yield error((*at, "size"), between("size", module.batch.size, 1, most))
    if module.gather is not None:
        yield error(at, "`batch` does not go with `gather`, which makes one message of many")


def _keep_of_warm(at: Path, keep: Keep) -> Iterator[Finding]:
    """Warn of what is for containers that stay after a message."""
    usual = Keep()
    for name in ("runs", "idle", "restarts"):
        if getattr(keep, name) != getattr(usual, name):
            words = f"`{name}` has no effect with `warm`: of `keep` only `age` is for what waits"
            yield warning((*at, name), words, at_key=True)


def _keep(at: Path, module: Module) -> Iterator[Finding]:
    keep = module.keep
    if keep == Keep():
        return
    if module.launch not in LASTING and not module.warm:
        yield warning(
            at,
            "`keep` has no effect without `warm`, `launch: slot` or `launch: resident`",
            at_key=True,
        )
    elif module.warm:
        yield from _keep_of_warm(at, keep)
    if keep.shortest and module.launch is not Launch.SLOT:
        wrong = f"`shortest` goes with `launch: slot`, not with `{module.launch.value}`"
        yield error((*at, "shortest"), wrong, rests_on=launched_by(at[:-1]))
    for name, most in (("runs", limits.KEEP_RUNS), ("restarts", limits.SLOT_RESTARTS)):
        if not 0 <= getattr(keep, name) <= most:
            yield error((*at, name), between(name, getattr(keep, name), 0, most))
    for name, least in (("age", 1), ("idle", 1), ("shortest", 0)):
        seconds = getattr(keep, name)
        if seconds is not None and not least <= seconds <= limits.RUN_SECONDS:
            low = "1s" if least else 0
            yield error((*at, name), between(name, seconds, low, "30d", show_duration))
