"""What the files of a work directory mean, as values."""

import msgspec


class Emission(msgspec.Struct, frozen=True, kw_only=True):
    """One follow-on message that a run asks for."""

    module: str | None
    """None: the module's default sink, which the caller knows."""
    body: bytes
    headers: dict[str, str]


class FileEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One file or directory that a run has read or written."""

    path: str
    """Absolute, as the program sees it."""
    bytes: int | None = None
    """Believed if given; None: to be measured."""


class Outputs(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a run left in its work directory for us."""

    emissions: tuple[Emission, ...] = ()
    status: int = 0
    """`statusCode` of task-exec; other than 0, it fails a run that exited with 0."""
    auxout: bytes | None = None
    extras: dict[str, object] = {}
    """JSON-like: the user's attributes, `timestamps`, `network_io`, `declared`."""
    input_files: tuple[FileEntry, ...] = ()
    output_files: tuple[FileEntry, ...] = ()
    input_bytes: int | None = None
    """What task-exec declares, if no `input-files.txt` outranks it; 0 if that names no file."""
    output_bytes: int | None = None
    removed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Cut(msgspec.Struct, frozen=True, kw_only=True):
    """A text that was perhaps cut: what is kept, how many bytes there were, whether some went."""

    text: str = ""
    size: int = 0
    cut: bool = False
