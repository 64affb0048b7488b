"""What no kernel executes: arguments and variables that are too long or hold a NUL."""

from scalebox_actors.errors import SpecRejected
from scalebox_actors.limits import ARGUMENT_BYTES
from scalebox_actors.spec import ContainerSpec

ARGUMENTS_BYTES = 2_000_000
"""Of all arguments and variables together."""


def check_arguments(spec: ContainerSpec) -> None:
    """Refuse what the kernel would: a container starts with it, and dies of it unheard."""
    variables = (f"{name}={value}" for name, value in spec.env.items())
    texts = [*spec.wrapper, *spec.command, *variables]
    sizes = [len(text.encode("utf-8", "surrogateescape")) for text in texts]
    if any("\0" in text for text in texts):
        raise SpecRejected("an argument or a variable holds a NUL byte")
    if any(size > ARGUMENT_BYTES for size in sizes) or sum(sizes) > ARGUMENTS_BYTES:
        raise SpecRejected(f"an argument or a variable is longer than {ARGUMENT_BYTES} bytes")
