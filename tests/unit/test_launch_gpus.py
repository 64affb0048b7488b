"""GPUs of a run: its own device files and no others, and variables that say the same."""

import pytest

from scalebox_actors.launch.gpus import Gpus, devices_of, gpu_variables

NODE = Gpus(indexes=(0, 1, 2), devices=("/dev/nvidia{}", "/dev/nvidiactl"))


@pytest.mark.parametrize(
    ("given", "gpus", "expected"),
    [
        pytest.param((), NODE, (), id="none-not-even-the-shared-one"),
        pytest.param((2,), NODE, ("/dev/nvidia2", "/dev/nvidiactl"), id="one"),
        pytest.param((0, 2), NODE, ("/dev/nvidia0", "/dev/nvidia2", "/dev/nvidiactl"), id="two"),
        pytest.param(
            (128,),
            Gpus(indexes=(128,), devices=("/dev/kfd", "/dev/dri/renderD{}")),
            ("/dev/dri/renderD128", "/dev/kfd"),
            id="another-maker",
        ),
    ],
)
def test_devices(given: tuple[int, ...], gpus: Gpus, expected: tuple[str, ...]) -> None:
    """A run sees the files of its own GPUs and what all of them need."""
    assert expected == devices_of(given, gpus)


@pytest.mark.parametrize(
    ("given", "gpus", "contained", "expected"),
    [
        pytest.param((), Gpus(), True, {}, id="a-node-without-gpus-says-nothing"),
        pytest.param(
            (),
            NODE,
            True,
            {"NVIDIA_VISIBLE_DEVICES": "void", "CUDA_VISIBLE_DEVICES": ""},
            id="a-run-without-gpu-sees-none",
        ),
        pytest.param(
            (1, 2),
            NODE,
            True,
            {"NVIDIA_VISIBLE_DEVICES": "1,2", "CUDA_VISIBLE_DEVICES": "0,1", "SBX_GPU": "1,2"},
            id="a-container-counts-its-own-from-0",
        ),
        pytest.param(
            (2,),
            NODE,
            False,
            {
                "NVIDIA_VISIBLE_DEVICES": "2",
                "CUDA_VISIBLE_DEVICES": "2",
                "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
                "SBX_GPU": "2",
            },
            id="a-process-is-told-the-hosts-number",
        ),
    ],
)
def test_variables(
    given: tuple[int, ...], gpus: Gpus, contained: bool, expected: dict[str, str]
) -> None:
    """What a program and NVIDIA's runtime are told follows from what the run was given."""
    assert expected == gpu_variables(given, gpus, contained=contained)
