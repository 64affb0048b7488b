"""A deployment with keys as an operator makes it: conf, server, node, send; nothing is denied."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scalebox_actors.testing.listening import free_port

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]

SITES = ("hub", "b")
FUNCTIONS = """
import json

async def split(message):
    return [str(number) for number in range(int(message.body))]

async def square(message):
    return str(int(message.body) ** 2)

async def total(message):
    return str(sum(map(int, json.loads(message.body)["members"])))
"""
SECONDS = 40.0


class Deployment:
    """Two sites of one machine, every process one of `sbx-actor`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.listen = {site: f"127.0.0.1:{free_port()}" for site in SITES}
        self.processes: list[subprocess.Popen[bytes]] = []
        (root / "functions.py").write_text(FUNCTIONS)
        (root / "topology.yaml").write_text(
            "topology: t\n"
            "sites:\n"
            f'  hub: {{hub: true, address: "127.0.0.1:{free_port()}", '
            f'listen: "{self.listen["hub"]}"}}\n'
            f'  b: {{listen: "{self.listen["b"]}"}}\n'
            "modules:\n"
            '  split: {function: "functions:split", site: hub, sinks: [square]}\n'
            '  square: {function: "functions:square", site: b, sinks: [total]}\n'
            '  total: {function: "functions:total", site: hub, gather: {by: root, count: 4}}\n'
        )

    def command(self, *words: str) -> list[str]:
        """Return the words of one command of ours."""
        start = "import sys; from scalebox_actors.cli import main; sys.exit(main())"
        return [sys.executable, "-c", start, *words]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(  # noqa: S603 - our own program
            self.command(*words), cwd=self.root, capture_output=True, text=True, check=False,
            timeout=SECONDS,
        )  # fmt: skip

    def start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        """Start a command that stays, its log in a file of that name."""
        with (self.root / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 - our own program
                self.command(*words), cwd=self.root, stderr=log, stdout=log
            )
        self.processes.append(process)
        return process

    def at(self, site: str, role: str) -> list[str]:
        """Return the options with which a role reaches a site."""
        return ["--nats", f"nats://{self.listen[site]}", "--creds", f"keys/{site}/{role}.nk"]

    def log(self, name: str) -> str:
        """Return what a command has said so far."""
        return (self.root / f"{name}.log").read_text()

    def until(self, name: str, text: str) -> None:
        """Wait until a command has said something."""
        end = time.monotonic() + SECONDS
        while text not in self.log(name):
            ended = any(process.poll() is not None for process in self.processes)
            assert not ended, f"{name}: {self.log(name)}"
            assert time.monotonic() < end, f"{name}: {self.log(name)}"
            time.sleep(0.05)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Keys made, servers and nodes running."""
    here = Deployment(tmp_path_factory.mktemp("deployment"))
    made = here.run("conf", "topology.yaml", "--keys", "keys")
    assert made.returncode == 0, made.stderr
    try:
        for site in SITES:
            words = ["--site", site, "--keys", "keys", "--store", f"store-{site}"]
            here.start(f"server-{site}", "server", "topology.yaml", *words)
        for site in SITES:
            here.until(f"server-{site}", " deployed ")
        for site in SITES:
            words = ["--site", site, "--name", f"n-{site}", "--work", f"work-{site}"]
            here.start(f"node-{site}", "node", "topology.yaml", *words, *here.at(site, "node"))
        for site in SITES:
            here.until(f"node-{site}", "node_started")
        yield here
    finally:
        for process in here.processes:
            process.send_signal(signal.SIGTERM)
        for process in here.processes:
            process.wait(SECONDS)


def results(deployment: Deployment) -> list[str]:
    """Return the bodies of the results at the hub, once there are any."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        got = deployment.run("results", "t", "--json", *deployment.at("hub", "admin"))
        if got.stdout:
            return [json.loads(line)["body"] for line in got.stdout.splitlines()]
        time.sleep(0.2)
    raise AssertionError(got.stderr + deployment.log("node-hub") + deployment.log("node-b"))


def test_a_pipeline_over_two_sites_needs_no_more_than_its_rights(deployment: Deployment) -> None:
    """Sent by a sender, run by nodes, gathered at the hub: one sum, and nobody was denied."""
    sent = deployment.run("send", "t", "split", "4", *deployment.at("hub", "sender"))
    found = results(deployment)
    looked = deployment.run("status", "t", *deployment.at("b", "trace"))
    logs = "".join(
        deployment.log(f"{kind}-{site}") for kind in ("node", "server") for site in SITES
    )

    assert sent.returncode == 0, sent.stderr
    assert found == ["14"]
    assert "denied" not in logs
    assert (looked.returncode, "denied" in looked.stderr) == (0, False), looked.stderr
    assert "hub" in looked.stdout


def test_the_wrong_key_is_refused_in_words(deployment: Deployment) -> None:
    """No login, another site's and one that others can read: each ends with its own sentence."""
    nats = ["--nats", f"nats://{deployment.listen['hub']}"]
    nobody = deployment.run("status", "t", *nats)
    stranger = deployment.run("status", "t", *nats, "--creds", "keys/b/admin.nk")
    login = deployment.root / "keys" / "hub" / "sender.nk"
    login.chmod(0o644)
    careless = deployment.run("send", "t", "split", "4", *deployment.at("hub", "sender"))
    login.chmod(0o600)
    denied = deployment.run("send", "t", "total", "4", *deployment.at("hub", "sender"))

    assert [run.returncode for run in (nobody, stranger, careless)] == [77, 77, 65]
    assert "refuses our login" in nobody.stderr
    assert "chmod 600" in careless.stderr
    assert (denied.returncode, denied.stdout) == (77, ""), denied.stderr
    assert "sbx.t.hub.task.total" in denied.stderr


def test_no_seed_leaves_its_file(deployment: Deployment) -> None:
    """Neither logs nor stored files nor the arguments of processes hold a seed."""
    deployment.run("send", "t", "split", "4", *deployment.at("hub", "sender"))
    results(deployment)
    keys = deployment.root / "keys"
    seeds = [path.read_text().split()[-1].encode() for path in keys.rglob("*.nk")]
    texts = {
        str(path): path.read_bytes()
        for path in deployment.root.rglob("*")
        if path.is_file() and keys not in path.parents
    }
    for process in deployment.processes:
        for kind in ("cmdline", "environ"):
            texts[f"{process.pid}/{kind}"] = Path(f"/proc/{process.pid}/{kind}").read_bytes()

    assert len(seeds) == 9
    assert [name for name, text in texts.items() for seed in seeds if seed in text] == []


def test_a_server_stops_when_it_is_told(deployment: Deployment) -> None:
    """SIGTERM ends it with exit code 0, and its nats-server with it."""
    server = deployment.processes[1]  # the last test here: site b is gone afterwards
    os.kill(server.pid, signal.SIGTERM)

    assert server.wait(SECONDS) == 0
