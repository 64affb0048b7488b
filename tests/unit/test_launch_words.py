"""Words for a shell, read back by real ones: nothing that a message says means anything to them."""

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalebox_actors.launch.words import exports, words_of

SHELLS = {
    "sh": ("/bin/sh",),
    "dash": (shutil.which("dash") or "/bin/sh",),
    "bash": (shutil.which("bash") or "", "--posix"),
    "busybox": (shutil.which("busybox") or "", "sh"),
}
TEXTS = st.lists(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
    | st.binary(max_size=20).map(lambda b: b.replace(b"\0", b"").decode("utf-8", "surrogateescape"))
    | st.sampled_from(
        ["'", "$(id)", "`id`", "\\", "-n", "a'b\\'c", "\n", "\x81\x88", "*", "\x7f\x01"]
    ),
    max_size=4,
)


def printed(shell: str, text: bytes, folder: Path) -> bytes:
    """Return what a shell prints that executes a file as the agent does."""
    script = folder / "task"
    script.write_bytes(text)
    line = [*SHELLS[shell], "-c", f'( . "{script}" )']
    done = subprocess.run(line, capture_output=True, check=True, timeout=20)  # noqa: S603
    return done.stdout


@pytest.mark.timeout(120)
@pytest.mark.parametrize("shell", SHELLS)
@settings(max_examples=40, deadline=None)
@given(texts=TEXTS)
def test_words_come_out_as_they_went_in(
    shell: str, texts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Every byte of every argument arrives, in every shell that an image may have."""
    folder = tmp_path_factory.mktemp("words")
    program = b"exec printf '%s\\0' end"
    expected = b"".join(t.encode("utf-8", "surrogateescape") + b"\0" for t in ["end", *texts])

    assert printed(shell, program + words_of(texts) + b"\n", folder) == expected


@pytest.mark.timeout(120)
@pytest.mark.parametrize("shell", SHELLS)
@settings(max_examples=25, deadline=None)
@given(texts=TEXTS)
def test_variables_come_out_as_they_went_in(
    shell: str, texts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """So does every byte of every variable."""
    folder = tmp_path_factory.mktemp("words")
    env = {f"WORD_{number}": text for number, text in enumerate(texts)}
    found = printed(shell, exports(env) + b"exec env -0\n", folder).split(b"\0")

    assert {e for e in found if e.startswith(b"WORD_")} == {
        f"{name}={text}".encode("utf-8", "surrogateescape") for name, text in env.items()
    }


@pytest.mark.parametrize("shell", SHELLS)
def test_a_long_word_comes_through(shell: str, tmp_path: Path) -> None:
    """The longest argument that a process can be given passes, whatever it is made of."""
    text = "'" * 30_000 + "x" * 101_071

    assert len(printed(shell, b"exec printf %s" + words_of([text]), tmp_path)) == 131_071
