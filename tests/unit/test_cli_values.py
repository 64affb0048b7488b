"""Values that would be taken and mean nothing: each is refused before anything is done."""

from pathlib import Path

import pytest

from scalebox_actors.cli import main

GOOD = "topology: tiny\nmodules:\n  a: {image: x/y, command: [echo]}\n"


@pytest.mark.parametrize(
    ("line", "code", "word"),
    [
        *(
            (f"{name} {{good}} {flag}=", 65, flag)
            for name in ("run", "node")
            for flag in ("--force-user", "--allow-image", "--allow-network", "--allow-device")
        ),
        ("node {good} --allow-image=a/ --allow-image=", 65, "--allow-image"),
        ("send {good} a x --id=", 65, "--id"),
        ("send {good} a --file {good} --id=", 65, "--id"),
        *(
            (f"{command} {flag} {value}", 2, flag)
            for command, flag in (
                ("plan {good}", "--rate"),
                ("plan {good}", "--cpus"),
                ("check {good}", "--cpus"),
                ("run {good}", "--max-cpus"),
            )
            for value in ("inf", "nan")
        ),
    ],
)
def test_what_means_nothing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, code: int, word: str
) -> None:
    """An empty text or no number at all, as of a variable that is not set, opens nothing."""
    good = tmp_path / "good.yaml"
    good.write_text(GOOD)
    words = [part.format(good=good) for part in line.split(" ")]
    ended = main([*words, *(["--store", str(tmp_path / "store")] if code == 65 else [])])

    assert (ended, word in capsys.readouterr().err) == (code, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good.yaml"]


@pytest.mark.parametrize("line", ["status tiny", "results tiny", "dead list tiny", "node tiny"])
def test_a_directory_without_streams_is_no_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    """Who looks into some directory gets a sentence, and nothing is left there."""
    (tmp_path / "notes").touch()
    ended = main([*line.split(" "), "--store", str(tmp_path)])

    assert (ended, "nothing has run" in capsys.readouterr().err) == (69, True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


@pytest.mark.parametrize("by", ["[[a]", "[a--b]", "[a&&b]"])
def test_a_pattern_that_python_doubts_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], by: str
) -> None:
    """What will mean something else one day is told of at its place, in one sentence."""
    path = tmp_path / "t.yaml"
    path.write_text(f"{GOOD[:-2]}, gather: {{by: '{by}', count: 2}}}}\n")
    ended = main(["check", str(path)])
    told = capfd.readouterr().err

    assert ended == 65
    assert f"{path}:3:" in told
    assert "is no regular expression: `Possible" in told
    assert "FutureWarning" not in told
