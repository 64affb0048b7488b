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


@pytest.mark.parametrize(
    ("site", "warned"),
    [
        pytest.param('{listen: "0.0.0.0:4222"}', True, id="every-address"),
        pytest.param('{listen: "0.0.0.0:4222", servers: [b.example]}', False, id="named"),
        pytest.param('{listen: "10.0.0.7:4222"}', False, id="an-address"),
        pytest.param('{listen: "127.0.0.1:4222"}', False, id="loopback"),
    ],
)
def test_a_site_that_nobody_could_trust_is_warned_of(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], site: str, *, warned: bool
) -> None:
    """Who listens beyond its host needs a name in the topology, or TLS refuses its clients."""
    path = tmp_path / "t.yaml"
    path.write_text(THREE.replace("{replicas: 3, servers: [b1, b2, b3]}", site))
    ended = main(["conf", str(path), "--keys", str(tmp_path / "keys")])
    told = capfd.readouterr().err

    assert ended == 0
    assert ("the certificate of site b is for the name b only" in told) == warned
    assert "site hub" not in told


def test_a_server_refuses_an_address_that_its_certificate_lacks(
    three: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing is started at which every login would end with a failed handshake."""
    keys, store = str(tmp_path / "keys"), tmp_path / "store"
    assert main(["conf", three, "--keys", keys]) == 0
    words = ["--site", "hub", "--keys", keys, "--listen", "192.0.2.9:4222", "--store", str(store)]
    ended = main(["server", three, *words])

    assert ended == 65
    assert "name 192.0.2.9 in `servers` of site hub" in capfd.readouterr().err
    assert not store.exists()
