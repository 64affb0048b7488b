"""What a check found: where (as a path of keys), what, and whether it forbids the topology."""

from collections.abc import Callable, Iterable, Iterator

import msgspec

from scalebox_actors.topology.wording import shown

Path = tuple[str | int, ...]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One sentence about one place of a topology."""

    path: Path
    message: str
    fatal: bool
    at_key: bool = False
    """Whether the key is meant and not its value."""
    rests_on: tuple[Path, ...] = ()
    """The values it was judged by, where they are others than the one at `path`."""

    def is_known(self, unread: frozenset[Path]) -> bool:
        """Whether everything it was judged by could be read, and nothing above was wrong."""
        return not any(
            path[:length] in unread
            for path in self.rests_on or (self.path,)
            for length in range(1, len(path) + 1)
        )


def error(
    path: Path, message: str, *, at_key: bool = False, rests_on: Iterable[Path] = ()
) -> Finding:
    """Return a finding that forbids the topology."""
    on = tuple(rests_on)
    return Finding(path=path, message=message, fatal=True, at_key=at_key, rests_on=on)


def warning(path: Path, message: str, *, at_key: bool = False) -> Finding:
    """Return a finding that people should know of."""
    return Finding(path=path, message=message, fatal=False, at_key=at_key)


def between(
    what: str,
    value: float,
    least: object,
    most: object,
    show: Callable[[int], object] | Callable[[float], object] = str,
) -> str:
    """Say that a value is out of its range."""
    return f"`{what}` must be {least} to {most}, not {show(value)}"  # type: ignore[arg-type]


def plain_text(path: Path, text: str, longest: int) -> Iterator[Finding]:
    """Check a text that is shown to people: one printable line of bounded length."""
    if len(text) > longest:
        yield error(path, f"{len(text)} characters; at most {longest} are allowed")
    elif not text.isprintable():
        yield error(path, f"{shown(text)} has characters that cannot be shown")
