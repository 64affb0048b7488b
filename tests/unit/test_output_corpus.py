"""Every folder of the output corpus, read as the files of one run.

The name of a folder says the verdict: `ok-`, `warn-` (usable, with warnings) or `bad-` (exit code
120). Its `expected.json` says what must come out: each key is a field of Outputs; `warning` is the
beginning of one of the warnings, `error` of the error, `error_says` a part of it.
"""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from scalebox_actors.contract import READ_FILES, FileEntry, Outputs, parse_outputs
from scalebox_actors.errors import BadOutput

CORPUS = Path(__file__).parent.parent / "corpus" / "outputs"
MODULES = {"calc", "next"}


def folders(*verdicts: str) -> list[Any]:
    """Return the corpus folders whose name begins with one of `verdicts`."""
    found = [p for p in sorted(CORPUS.iterdir()) if p.name.partition("-")[0] in verdicts]
    assert found
    return [pytest.param(path, id=path.name) for path in found]


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the files that the run of a corpus folder left."""
    files = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "expected.json"}
    assert files.keys() <= set(READ_FILES)
    return files


def expected_of(folder: Path) -> dict[str, Any]:
    """Return what must come out of a corpus folder."""
    return msgspec.json.decode((folder / "expected.json").read_bytes(), type=dict[str, Any])


def told(outputs: Outputs) -> dict[str, Any]:
    """Return outputs in the words of `expected.json`."""

    def files(entries: tuple[FileEntry, ...]) -> list[list[object]]:
        return [[entry.path, entry.bytes] for entry in entries]

    return {
        "emissions": [[e.module, e.body.decode(), e.headers] for e in outputs.emissions],
        "count": len(outputs.emissions),
        "status": outputs.status,
        "auxout": None if outputs.auxout is None else outputs.auxout.decode(errors="replace"),
        "auxout_hex": None if outputs.auxout is None else outputs.auxout.hex(),
        "extras": outputs.extras,
        "input_files": files(outputs.input_files),
        "output_files": files(outputs.output_files),
        "input_bytes": outputs.input_bytes,
        "output_bytes": outputs.output_bytes,
        "removed": list(outputs.removed),
        "warnings": list(outputs.warnings),
    }


def refusal(name: str, data: bytes) -> str | None:
    """Return why a run with this one file is unusable, or None if it is usable."""
    try:
        parse_outputs({name: data}, MODULES)
    except BadOutput as error:
        return str(error)
    return None


@pytest.mark.parametrize("folder", folders("ok", "warn"))
def test_usable_outputs_mean_what_the_corpus_says(folder: Path) -> None:
    """Files that can be used give exactly the expected fields, and warn only if they should."""
    expected = expected_of(folder)
    begins = expected.pop("warning", "")

    outputs = parse_outputs(files_of(folder), MODULES)

    actual = told(outputs)
    assert {key: actual[key] for key in expected} == expected
    assert any(warning.startswith(begins) for warning in outputs.warnings) == bool(outputs.warnings)
    assert bool(outputs.warnings) == folder.name.startswith("warn-")


@pytest.mark.parametrize("folder", folders("bad"))
def test_unusable_outputs_name_file_and_line(folder: Path) -> None:
    """Files that cannot be used are refused whole, in one printable line with the place."""
    expected = expected_of(folder)

    with pytest.raises(BadOutput) as caught:
        parse_outputs(files_of(folder), MODULES)

    message = str(caught.value)
    assert message.startswith(expected["error"])
    assert expected.get("error_says", "") in message
    assert message.isprintable()
    assert len(message) < 400


@pytest.mark.parametrize("folder", folders("ok", "warn", "bad"))
def test_every_truncation_is_read_or_refused(folder: Path) -> None:
    """A file that ends anywhere is read or refused with its name; nothing else is raised."""
    for name, whole in files_of(folder).items():
        for end in range(0, len(whole), max(1, len(whole) // 150)):
            assert (refusal(name, whole[:end]) or f"{name}:").startswith(f"{name}:")
