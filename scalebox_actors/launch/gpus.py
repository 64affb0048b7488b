"""How a run gets the GPUs that its node has given it: device files, and variables. Pure."""

from collections.abc import Sequence

import msgspec

NVIDIA = "/dev/nvidia{}"


class Gpus(msgspec.Struct, frozen=True, kw_only=True):
    """The GPUs of a node, and how its device files are named."""

    indexes: tuple[int, ...] = ()
    devices: tuple[str, ...] = (NVIDIA,)
    """`{}` is the index; a path without it goes to every run that has a GPU."""


def devices_of(given: Sequence[int], gpus: Gpus) -> tuple[str, ...]:
    """Return the device files of a run that was given these GPUs."""
    if not given:
        return ()
    named = [[p.replace("{}", str(index)) for index in given] for p in gpus.devices if "{}" in p]
    shared = [path for path in gpus.devices if "{}" not in path]
    return tuple(dict.fromkeys([*(path for paths in named for path in paths), *shared]))


def gpu_variables(given: Sequence[int], gpus: Gpus, *, contained: bool) -> dict[str, str]:
    """Return the variables of a run on a node with GPUs; none on a node without.

    In a container CUDA counts only the devices that are there, from 0; a plain process must be
    told which ones of the host are its own. An image may say that all GPUs are to be seen, which
    NVIDIA's runtime obeys: a run that has none says that it has none.
    """
    if not gpus.indexes:
        return {}
    own = ",".join(map(str, given))
    counted = ",".join(map(str, range(len(given)))) if contained else own
    variables = {"NVIDIA_VISIBLE_DEVICES": own or "void", "CUDA_VISIBLE_DEVICES": counted}
    if not contained:
        variables["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # as the device files are numbered
    return variables | ({"SBX_GPU": own} if own else {})
