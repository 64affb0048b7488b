"""The files in `deploy/` agree with the program: topologies load, commands and options exist."""

import re
from pathlib import Path

import pytest
import yaml

from scalebox_actors.cli.commands import COMMANDS, commands
from scalebox_actors.sites import server_configuration
from scalebox_actors.topology.load import load_file

ROOT = Path(__file__).resolve().parents[2] / "deploy"
COMPOSE = sorted((ROOT / "compose").glob("*-site*.yaml"))
UNITS = sorted((ROOT / "systemd").glob("*.service"))


def options(command: str) -> set[str]:
    """Return the options of one of our commands."""
    found = commands.get_command(None, command)  # type: ignore[arg-type]  # it is not looked at
    assert found is not None
    return {option for parameter in found.params for option in parameter.opts}


def unknown(words: list[str]) -> list[str]:
    """Return what a command line of ours has that the program has not."""
    if words[0] not in COMMANDS:
        return [words[0]]
    return [w for w in words if w.startswith("--") and w not in options(words[0])]


@pytest.mark.parametrize("path", COMPOSE, ids=lambda p: str(p.name))
def test_compose_files_say_what_there_is(path: Path) -> None:
    """Every service runs a command of ours, hardened, at a site that the topology has."""
    services = yaml.safe_load(path.read_text())["services"]
    for service in services.values():
        words = service["command"]
        topology = load_file(str(ROOT / "compose" / Path(words[1]).name))

        assert unknown(words) == []
        assert words[words.index("--site") + 1] in topology.site_names
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"] is True
        assert words[0] != "server" or server_configuration(topology, words[3])


@pytest.mark.parametrize("path", UNITS, ids=lambda p: str(p.name))
def test_units_say_what_there_is(path: Path) -> None:
    """A unit's command line is one of ours; it has no privilege and writes below its own state."""
    text = path.read_text().replace("\\\n", " ")
    line = re.search(r"^ExecStart=\S+ (.*)$", text, re.MULTILINE)

    assert line is not None
    assert unknown(line[1].split()) == []
    for setting in ("NoNewPrivileges=yes", "CapabilityBoundingSet=\n", "ProtectSystem=strict",
                    "Restart=always", "UMask=0077"):  # fmt: skip
        assert setting in text
