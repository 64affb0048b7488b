"""Every file of the corpus: refused with its place, accepted, or accepted with a warning.

The first line of a refused or warned file says where and what: `# line:column words`.
"""

import re
from pathlib import Path

import pytest
from unit.loading import LONGEST, seconds

from scalebox_actors.errors import BadInput
from scalebox_actors.topology.load import load, load_with_warnings
from scalebox_actors.topology.render import render

CORPUS = Path(__file__).parents[1] / "corpus" / "topology"
REFUSED = sorted((CORPUS / "bad").iterdir())
TAKEN = sorted((CORPUS / "good").iterdir())
EXPECTATION = re.compile(r"# (\d+):(\d+) (.+)")


def expectation(data: bytes) -> tuple[str, str]:
    """Return place and words that the first line of a file promises."""
    found = EXPECTATION.match(data.decode().partition("\n")[0])
    assert found is not None, "the first line must be `# line:column words`"
    return f"{found[1]}:{found[2]}", found[3]


def is_one_line(text: str) -> bool:
    """Whether a terminal shows `text` as one line, whatever is in it."""
    return text.isprintable()


@pytest.mark.parametrize("file", REFUSED, ids=lambda file: file.stem)
def test_a_bad_file_is_refused_with_place_and_reason(file: Path) -> None:
    """A bad file gives BadInput: one line, the right place, the right words, soon."""
    data = file.read_bytes()
    place, words = expectation(data)

    with pytest.raises(BadInput) as caught:
        load(data, path="t.yaml")

    assert seconds(data) <= LONGEST
    assert str(caught.value).startswith(f"t.yaml:{place}: ")
    assert words in str(caught.value)
    assert is_one_line(str(caught.value))


@pytest.mark.parametrize("file", TAKEN, ids=lambda file: file.stem)
def test_a_good_file_survives_the_round_trip(file: Path) -> None:
    """A good file loads, warns exactly as its name says, and its rendering means the same."""
    data = file.read_bytes()

    topology, warnings = load_with_warnings(data, path="t.yaml")

    if file.name.startswith("warned-"):
        place, words = expectation(data)
        assert [w for w in warnings if w.startswith(f"t.yaml:{place}: warning: ") and words in w]
    else:
        assert warnings == []
    assert all(map(is_one_line, warnings))
    assert load(render(topology), path="rendered") == topology


def test_the_name_of_a_file_says_what_happens_to_it() -> None:
    """File names carry the verdict, so that a listing of the folder is a specification."""
    assert {file.name.partition("-")[0] for file in REFUSED} == {"refused"}
    assert {file.name.partition("-")[0] for file in TAKEN} == {"accepted", "warned"}
    assert len(REFUSED) + len(TAKEN) >= 400
