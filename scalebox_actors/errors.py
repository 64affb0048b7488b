"""Every error that leaves this package, under one root.

Transient or permanent is a class, not a flag: what is `Transient` may succeed when repeated as
it is, what is `Permanent` may not. The docstring of a class is the sentence its users see when
no better one is given, and `exit_code` is what `sbx-actor` ends with.
"""

import msgspec

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What a decoder raises for bytes that it cannot read: msgspec's own is not all of it."""


class SbxError(Exception):
    """Something went wrong in scalebox_actors."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (type(self).__doc__ or "").partition("\n")[0])


class Transient(SbxError):
    """What was tried may succeed when it is tried again."""

    exit_code = 75


class Permanent(SbxError):
    """What was tried fails again however often it is tried."""


class BadInput(Permanent):
    """A file or an argument cannot be used as it is.

    The place is given where it is known: `path:line:column: message`, lines and columns from 1.
    """

    exit_code = 65
    errors: "tuple[BadInput, ...]" = ()
    """Everything that was found wrong with a file, this error first; empty where one was sought."""

    def __init__(self, message: str, *, path: str = "", line: int = 0, column: int = 0) -> None:
        self.message, self.path, self.line, self.column = message, path, line, column
        place = ":".join([path, *(str(n) for n in (line, column) if n)]) if path else ""
        super().__init__(f"{place}: {message}" if place else message)


class BadMessage(Permanent):
    """A message cannot be read as a task; it is buried with this reason."""

    exit_code = 65


class BadOutput(Permanent):
    """A run ended well, but its output files cannot be used (exit code 120)."""


class Unavailable(Transient):
    """A service that is needed does not answer."""

    exit_code = 69


class RuntimeUnavailable(Unavailable):
    """The container engine does not answer."""


class NotAdmitted(Transient):
    """A message was taken that may not be run here now; nothing runs for it."""


NODE_ENDS = "the node ends"
"""Why a message is not admitted whose run cannot outlive its node, or would wait in vain."""


class NotPermitted(Permanent):
    """The operator's ceiling or the server's permissions forbid this."""

    exit_code = 77


class ImageMissing(Permanent):
    """The module's image is not on this host."""


class SpecRejected(Permanent):
    """The container engine refuses to make this container."""
