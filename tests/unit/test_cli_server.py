"""`sbx-actor server` before it starts anything: what it refuses to be."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from scalebox_actors.cli.server import server
from scalebox_actors.errors import BadInput

ONE = "topology: t\n{sites}modules:\n  m: {{function: 'f:m'}}\n"


def refused(folder: Path, sites: str, *options: str) -> str:
    """Return why a server without keys does not start."""
    path = folder / "t.yaml"
    path.write_text(ONE.format(sites=f"sites:\n  {sites}\n" if sites else ""))
    words = [str(path), "--store", str(folder / "store"), *options]
    result = CliRunner().invoke(server, words)

    assert isinstance(result.exception, BadInput), result.exception
    assert not (folder / "store").exists()
    return str(result.exception)


@pytest.mark.parametrize(
    ("sites", "options", "address"),
    [
        pytest.param("s: {listen: '0.0.0.0:4222'}", (), "0.0.0.0:4222", id="clients"),
        pytest.param("", ("--listen", "192.0.2.1:4222"), "192.0.2.1:4222", id="clients-as-typed"),
        pytest.param("", ("--monitor", "0.0.0.0:8222"), "0.0.0.0:8222", id="health-checks"),
        pytest.param(
            "{s: {hub: true, address: 'hub.example:7422'}, b: {}}", ("--site", "s"),
            "0.0.0.0:7422", id="links",
        ),
        pytest.param(
            "s: {replicas: 3, servers: [s1, s2, s3]}", (), "0.0.0.0:6222", id="other-servers"
        ),
    ],
)  # fmt: skip
def test_without_keys_it_is_reached_from_its_host_alone(
    tmp_path: Path, sites: str, options: tuple[str, ...], address: str
) -> None:
    """Nobody needs a login without keys, at no port: whoever speaks to it may do everything."""
    reason = refused(tmp_path, sites, *options)

    assert f"open to everybody who reaches {address}" in reason


@pytest.mark.parametrize("option", ["--listen", "--monitor"])
@pytest.mark.parametrize(
    "address", ["4222", "localhost", ":4222", "a:b", "h:0", "h:65536", "::1:4222", "a b:1", "h:-1"]
)
def test_addresses_are_host_and_port(tmp_path: Path, option: str, address: str) -> None:
    """What the server would refuse, and tell nobody of, is bad input."""
    assert f"{option} {address}: not of the form HOST:PORT" in refused(
        tmp_path, "", option, address
    )
