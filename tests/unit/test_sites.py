"""What a site's server is told: what no knob weakens, and that no secret is among it."""

import pytest

from scalebox_actors.errors import BadInput
from scalebox_actors.rights import CLIENTS, Role, inbox, island, rights
from scalebox_actors.sites import Ground, Keys, server_configuration, split_address
from scalebox_actors.topology.load import load
from scalebox_actors.topology.model import Topology

TEXT = """
topology: t
sites:
  hub: {hub: true, address: "hub.example:7422", listen: "0.0.0.0:4222"}
  a: {store: /data/js}
  b: {replicas: 3, servers: [b1, b2, b3], listen: "0.0.0.0:4222"}
modules:
  split: {image: x, site: hub, sinks: [count]}
  count: {image: x, sites: [a, b], sinks: [total]}
  total: {image: x, site: hub, gather: {by: root, count: 2}}
"""
SITES = ("hub", "a", "b")
KEYS = Keys(
    folder="/keys",
    users={site: {role: f"U-{site}-{role}" for role in Role} for site in SITES},
)


@pytest.fixture(scope="module")
def topology() -> Topology:
    """Three sites, one of them with three servers."""
    return load(TEXT.encode(), path="t.yaml")


@pytest.mark.parametrize("keys", [None, KEYS], ids=["open", "keys"])
@pytest.mark.parametrize("site", SITES)
def test_every_server_syncs_and_pings_and_is_its_domain(
    topology: Topology, site: str, keys: Keys | None
) -> None:
    """The three choices of the product stand in every configuration."""
    text = server_configuration(topology, site, keys)

    for line in ("sync_interval: always", f'domain: "{site}"', 'ping_interval: "5s"',
                 "ping_max: 2"):  # fmt: skip
        assert line in text


@pytest.mark.parametrize("site", ["a", "b"])
def test_a_leaf_keeps_its_own_to_itself(topology: Topology, site: str) -> None:
    """Even without keys its link refuses everything that is stored, and JetStream's API."""
    text = server_configuration(topology, site)
    denied = text.partition("deny_imports")[2]

    for subject in island(site):
        assert f'"{subject}"' in denied
    assert '"nats://hub.example:7422"' in text
    assert 's2_auto"' in text


def test_leaves_dial_what_the_hub_says() -> None:
    """Its `address`, and all of three servers; the name for clients of one server is no other."""
    one = TEXT.replace("hub: {", "hub: {servers: [h1], ", 1)
    three = TEXT.replace("hub: {", "hub: {replicas: 3, servers: [h1, h2, h3], ", 1)

    assert "h1" not in server_configuration(load(one.encode(), path="t.yaml"), "a")
    assert '"nats://h3:7422"' in server_configuration(load(three.encode(), path="t.yaml"), "a")


def test_the_hub_listens_and_hides_its_addresses(topology: Topology) -> None:
    """The hub waits for leaves at its address and tells them of no other way to it."""
    text = server_configuration(topology, "hub")

    assert 'leafnodes {\n  listen: "0.0.0.0:7422"' in text
    assert "no_advertise: true" in text
    assert "remotes" not in text


def test_with_keys_everything_is_encrypted(topology: Topology) -> None:
    """Links want certificates of both sides, clients on a network get TLS, nothing is older."""
    hub, leaf = (server_configuration(topology, site, KEYS) for site in ("hub", "b"))

    assert hub.count("verify: true") == 1  # the leaf listener; clients show an nkey instead
    assert leaf.count("verify: true") == 1  # the cluster's routes
    assert hub.count("tls {") == 2
    assert '"tls://hub.example:7422"' in leaf
    assert set(hub.split("min_version: ")[1:]) & {'"1.0"', '"1.1"'} == set()


def test_no_secret_stands_in_a_configuration(topology: Topology) -> None:
    """The seed of a link is a variable of a file that only its owner may read."""
    text = server_configuration(topology, "b", KEYS)

    assert text.startswith('include "leaf.conf"\n')
    assert "nkey: $LEAF_SEED" in text
    assert "password" not in text
    assert "include" not in server_configuration(topology, "hub", KEYS)


def test_a_cluster_knows_its_members(topology: Topology) -> None:
    """Three servers of one site have three names and one list of routes."""
    texts = [
        server_configuration(topology, "b", None, Ground(member=number)) for number in (1, 2, 3)
    ]

    for number, text in enumerate(texts, 1):
        assert f'server_name: "sbx-b-{number}"' in text
        assert '"nats-route://b3:6222"' in text
        assert f'client_advertise: "b{number}:4222"' in text


def test_only_what_listens_everywhere_has_to_say_where_it_is(topology: Topology) -> None:
    """A server at one address tells of that one; who has no neighbours tells of nothing."""
    here = server_configuration(topology, "b", None, Ground(listen="10.0.0.1:4222"))
    alone = server_configuration(topology, "hub", None, Ground(listen="0.0.0.0:4222"))

    assert "client_advertise" not in here + alone


def test_a_port_of_a_server_is_that_of_its_routes() -> None:
    """Each waits for the others where `servers` says; on loopback at its own address there."""
    servers = 'servers: [b1, "b2:7000", "127.0.0.3:7000"]'
    topology = load(TEXT.replace("servers: [b1, b2, b3]", servers).encode(), path="t.yaml")
    texts = [
        server_configuration(topology, "b", None, Ground(member=number)) for number in (1, 2, 3)
    ]
    listens = ("0.0.0.0:6222", "0.0.0.0:7000", "127.0.0.3:7000")

    for listen, text in zip(listens, texts, strict=True):
        assert f'cluster {{\n  name: "b"\n  listen: "{listen}"' in text
        for route in ("b1:6222", "b2:7000", "127.0.0.3:7000"):
            assert f'"nats-route://{route}"' in text


def test_what_no_configuration_can_hold_is_refused(topology: Topology) -> None:
    """A path with a control character is an error here and not one of nats-server."""
    with pytest.raises(BadInput, match=r"'/s\\x01' has characters"):
        server_configuration(topology, "a", None, Ground(store="/s\x01"))


def test_the_ground_decides_where(topology: Topology) -> None:
    """What a deployment says of places wins over the topology; the store of a site is its own."""
    ground = Ground(store="/s", listen="127.0.0.1:1", hub="127.0.0.1:2", monitor="127.0.0.1:3")
    text = server_configuration(topology, "a", None, ground)

    for line in ('store_dir: "/s"', 'listen: "127.0.0.1:1"', '"nats://127.0.0.1:2"',
                 'http: "127.0.0.1:3"'):  # fmt: skip
        assert line in text
    assert 'store_dir: "/data/js"' in server_configuration(topology, "a")


@pytest.mark.parametrize("keys", [None, KEYS], ids=["open", "keys"])
def test_who_watches_the_links_may_only_list_and_close_them(
    topology: Topology, keys: Keys | None
) -> None:
    """One user of the system account, with two subjects to ask; without a key there is none."""
    text = server_configuration(topology, "a", keys, Ground(watch="UWATCH"))
    user = text.partition('nkey: "UWATCH"')[2].partition("subscribe")[0]
    asks = [line.strip() for line in user.splitlines() if line.strip().startswith('"$')]

    assert asks == ['"$SYS.REQ.SERVER.*.LEAFZ"', '"$SYS.REQ.SERVER.*.KICK"']
    assert 'system_account: "SYS"' in text
    assert "UWATCH" not in server_configuration(topology, "a", keys)


def test_a_leaf_dials_soon_and_does_not_fill_its_log(topology: Topology) -> None:
    """Twice a second at most, and an attempt in sixty is logged."""
    text = server_configuration(topology, "a")

    assert 'reconnect: "500ms"' in text
    assert "reconnect_error_reports: 60" in text


def test_one_site_has_no_links() -> None:
    """A topology without sites gets a server without leaf nodes."""
    alone = load(b"topology: t\nmodules:\n  m: {image: x}\n", path="t")
    text = server_configuration(alone, "local")

    assert "leafnodes" not in text
    assert 'domain: "local"' in text


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        pytest.param(('address: "hub.example:7422", ', ""), "needs `address", id="no-address"),
        pytest.param((", servers: [b1, b2, b3]", ""), "name its `servers`", id="no-servers"),
    ],
)
def test_what_a_deployment_needs_is_asked_for(change: tuple[str, str], sentence: str) -> None:
    """What `run` on one machine can do without, a configuration cannot, and says so."""
    topology = load(TEXT.replace(*change).encode(), path="t.yaml")

    with pytest.raises(BadInput, match=sentence):
        server_configuration(topology, "b")


def test_an_unknown_site_is_named(topology: Topology) -> None:
    """The error says which sites there are."""
    with pytest.raises(BadInput, match="hub, a, b"):
        server_configuration(topology, "c")


def test_a_missing_key_is_named(topology: Topology) -> None:
    """A configuration without one of its users would lock somebody out: it is not made."""
    keys = Keys(folder="/keys", users={"a": KEYS.users["a"]})

    with pytest.raises(BadInput, match="no key of role sender for site hub"):
        server_configuration(topology, "hub", keys)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("role", CLIENTS)
def test_no_role_may_do_everything(topology: Topology, site: str, role: Role) -> None:
    """No list has a subject that begins with a wildcard, and everybody hears only themselves."""
    may = rights(topology, site, role)

    assert not [s for s in (*may.publish, *may.subscribe) if s.startswith((">", "*"))]
    assert may.subscribe[0] == f"{inbox(site, role)}.>"
    assert set(may.subscribe[1:]) <= {f"sbx.t.{site}.ctl.>"}


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("role", [Role.SENDER, Role.NODE, Role.TRACE])
def test_streams_belong_to_the_admin(topology: Topology, site: str, role: Role) -> None:
    """Nobody else makes, empties or removes a stream or consumer, except where groups are."""
    api = {s for s in rights(topology, site, role).publish if s.startswith("$JS.API.")}
    changing = {
        s for s in api if any(verb in s for verb in ("CREATE", "DELETE", "PURGE", "UPDATE"))
    }
    gathers = site == "hub" and role is Role.NODE

    assert changing == ({"$JS.API.STREAM.PURGE.SBX_t_AT_hub"} if gathers else set())


@pytest.mark.parametrize("site", SITES)
def test_a_role_stays_at_its_site(topology: Topology, site: str) -> None:
    """Of other sites a node names tasks, questions and inboxes: nothing that is stored there."""
    others = [other for other in SITES if other != site]
    named = [
        subject
        for subject in rights(topology, site, Role.NODE).publish
        for other in others
        if subject.startswith(f"sbx.t.{other}.")
    ]

    assert {subject.split(".")[3] for subject in named} == {"task", "ctl"}


def test_a_link_carries_what_is_addressed(topology: Topology) -> None:
    """What b may receive is for b; what it may send is not for b, but for its own inbox."""
    may = rights(topology, "b", Role.LEAF)

    assert set(may.subscribe) == {"sbx.*.b.task.>", "_INBOX_b.>", "sbx.*.*.ctl.>"}
    assert "sbx.*.b.task.>" not in may.publish
    assert not [s for s in may.publish if "$JS" in s or "$KV" in s]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("h:1", ("h", 1)),
        ("h", ("h", 9)),
        ("[::1]:5", ("[::1]", 5)),
        ("[::1]", ("[::1]", 9)),
    ],
)
def test_addresses_are_split(address: str, expected: tuple[str, int]) -> None:
    """Host and port come apart, also where the host has colons of its own."""
    assert split_address(address, 9) == expected
