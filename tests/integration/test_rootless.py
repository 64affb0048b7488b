"""Containers of a user who is not root: the contract of every runtime, and what is different."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from scalebox_actors.runtimes.oci_tools import NAMESPACE

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

TESTS = Path(__file__).parents[1]
USER = 12_345
AS_USER = (
    *("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"),
    # Of all that root may only to see its files: this checkout and its Python may be among them.
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
)
ROOTS = (
    *("killed_shepherd_loses_nothing", "open_descriptors_do_not_grow", "peak_of_memory"),
    *(
        "killed_child",
        "ran_out_between",
        "used_is_told",
        "file_system_that_holds_no_overlay",
        "nothing_is_left",
    ),
)
"""What limits or measures memory, or needs root to get ready."""
NOT_ROOTS = " and ".join(f"not {name}" for name in ROOTS)


@pytest.fixture
def home(cannot_run: Callable[[str], NoReturn]) -> Iterator[Path]:
    """A folder of that user's own."""
    if os.getuid() != 0:
        cannot_run("only root can become another user; each of these runs as you, too")
    folder = Path(tempfile.mkdtemp(prefix="sbx-rootless-"))
    os.chown(folder, USER, USER)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("file", "chosen"),
    [
        ("contract/test_runtime.py", "oci"),
        ("contract/test_runtime_names.py", "oci"),
        ("integration/test_runtime_oci.py", NOT_ROOTS),
        ("integration/test_runtime_oci_shepherd.py", NOT_ROOTS),
        ("integration/rootless_cases.py", ""),
    ],
)
def test_as_a_user(file: str, chosen: str, home: Path) -> None:
    """All of it passes without root."""
    if subprocess.run([*AS_USER, *NAMESPACE], check=False).returncode:  # noqa: S603
        pytest.skip("this kernel gives users no namespaces: there are no containers without root")
    words = [*AS_USER, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    words += ["--basetemp", str(home / "tests"), "-k", chosen, str(TESTS / file)]
    env = os.environ | {"TMPDIR": str(home), "HOME": str(home)}
    env.pop("XDG_RUNTIME_DIR", None)
    done = subprocess.run(  # noqa: S603
        words, capture_output=True, text=True, check=False, cwd=TESTS.parent, env=env
    )

    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
