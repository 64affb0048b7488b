"""`sbx-actor conf`: a configuration for every server, and words where one cannot work."""

from pathlib import Path

import pytest

from scalebox_actors.cli import main

THREE = """
topology: t
sites:
  hub: {hub: true, address: "hub.example:7422"}
  b: {replicas: 3, servers: [b1, b2, b3]}
modules:
  m: {image: "x:1"}
"""


@pytest.fixture
def three(tmp_path: Path) -> str:
    """The path of a topology with a site of three servers."""
    path = tmp_path / "three.yaml"
    path.write_text(THREE)
    return str(path)


def test_every_server_gets_its_configuration(three: str, tmp_path: Path) -> None:
    """Each of three has a file with a name of its own, and none is left of before."""
    keys = tmp_path / "keys"
    assert main(["conf", three, "--keys", str(keys)]) == 0
    first = {path.name for path in (keys / "b").glob("*.conf")}
    names = [(keys / "b" / f"nats-{n}.conf").read_text().split('"')[1:4:2] for n in (1, 2, 3)]
    Path(three).write_text(THREE.replace("replicas: 3, servers: [b1, b2, b3]", ""))
    assert main(["conf", three, "--keys", str(keys)]) == 0

    assert first == {"nats-1.conf", "nats-2.conf", "nats-3.conf", "leaf.conf"}
    assert [name for _, name in names] == ["sbx-b-1", "sbx-b-2", "sbx-b-3"]
    assert {path.name for path in (keys / "b").glob("*.conf")} == {"nats.conf", "leaf.conf"}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        pytest.param("--site b", 2, "has 3 servers: give --member", id="which-of-three"),
        pytest.param("--site b --keys {keys}", 2, "give --member", id="before-keys-are-made"),
        pytest.param("--site hub --member 2", 2, "has one server", id="one-only"),
        pytest.param("--site b --member 2", 0, 'server_name: "sbx-b-2"', id="printed"),
        pytest.param("--site hub --member 1", 0, 'server_name: "sbx-hub"', id="the-only-one"),
        pytest.param("--site hub --store /a\x01", 65, "no configuration", id="odd-store"),
    ],
)
def test_a_member_is_said_where_there_are_three(
    three: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], words: str, code: int, said: str
) -> None:
    """What is printed is the configuration of one server, and never by chance the first."""
    keys = tmp_path / "keys"
    given = [word.format(keys=keys) for word in words.split(" ")]
    ended = main(["conf", three, *given])
    out, err = capfd.readouterr()

    assert ended == code
    assert said in (err if code else out)
    assert not keys.exists()
