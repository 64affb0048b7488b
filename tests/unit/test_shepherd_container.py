"""How a container ended, by what its keeper and the container runtime left behind."""

import os
from pathlib import Path

import pytest

from scalebox_actors.runtimes import shepherd_cgroup
from scalebox_actors.runtimes.shepherd_rootless import RootlessContainer

ASKED = {"name": "n", "id": "1", "labels": {}, "attempt": 1, "work": "/", "time": 1.0}


@pytest.mark.parametrize(
    ("left", "killed", "expected"),
    [
        ({"exit": "0\n  ", "pid": "999999999"}, False, {"code": 0}),
        ({"exit": "3\n  ", "pid": "999999999"}, True, {"code": 3}),
        ({"exit": "143\n"}, False, {"code": 143}),
        ({"exit": "1\n  "}, False, {"code": 126, "not_started": True, "lost": False}),
        ({"exit": "1\n  ", "runtime.log": "no space left\n"}, False, {"code": 126, "lost": True}),
        ({"exit": "1\n  "}, True, {"code": 137}),
        ({"exit": "   \n"}, False, {"code": 137, "lost": True}),
        ({}, False, {"code": 137, "lost": True}),
    ],
)
def test_an_end_that_is_told(
    tmp_path: Path, left: dict[str, str], killed: bool, expected: dict[str, object]
) -> None:
    """A code is the program's or the runtime's; who was stopped early did not fail to start."""
    container = RootlessContainer(str(tmp_path), ASKED)
    place = Path(container.place)
    place.mkdir()
    for name, text in left.items():
        (place / name).write_text(text)
    if killed:
        container.kill()

    told = container.abandoned()

    assert {key: told[key] for key in expected} == expected
    assert ("not_started" in told, "lost" in told) == (
        ("not_started" in expected, "lost" in expected) if expected["code"] != 126 else (True, True)
    )


def test_a_code_is_one_on_a_full_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a program that was stopped; only what the runtime complains of may be the disk's fault."""
    monkeypatch.setattr(RootlessContainer, "_is_full", lambda _: True)
    for run, words in (("1", ""), ("2", "cannot write")):
        place = tmp_path / run
        place.mkdir()
        for name, text in (("exit", "3\n  "), ("pid", "999999999"), ("runtime.log", words)):
            (place / name).write_text(text)
    ends = []
    for run, killed in (("1", False), ("2", True)):
        container = RootlessContainer(str(tmp_path), {**ASKED, "id": run})
        container._killed = killed
        ends.append(container._verdict("3"))

    assert ends == [{"code": 3}, {"code": 3}]
    assert RootlessContainer(str(tmp_path), {**ASKED, "id": "2"})._verdict("3")["lost"] is True


def test_two_shepherds_may_make_the_first_group_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes second makes its own below that of the first."""
    real, parent = os.mkdir, tmp_path / "sbx"

    def mkdir(path: str) -> None:
        if path == str(parent) and not parent.exists():
            real(path)
        real(path)

    monkeypatch.setattr(os, "mkdir", mkdir)

    shepherd_cgroup._mkdir(str(parent), str(parent / "run"))

    assert (parent / "run").is_dir()


@pytest.mark.parametrize(("peak", "expected"), [(10 << 20, False), (16 << 20, True)])
def test_a_limit_that_was_reached_is_seen(tmp_path: Path, peak: int, expected: bool) -> None:
    """By what a group of version 1 keeps, also if nobody listened."""
    place = tmp_path / "memory/sbx/one"
    place.mkdir(parents=True)
    (place / "memory.limit_in_bytes").write_text(f"{16 << 20}\n")
    (place / "memory.max_usage_in_bytes").write_text(f"{peak}\n")

    assert expected == shepherd_cgroup.Group("one", str(tmp_path)).was_full()
    assert not shepherd_cgroup.Group("other", str(tmp_path)).was_full()
