"""Where a message goes: to one of its module's sites, the same on every node, as the rules say."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalebox_actors.errors import BadMessage
from scalebox_actors.placement import (
    Bound,
    Crossing,
    choose,
    crossings,
    destinations,
    links,
    reachable,
)
from scalebox_actors.topology.model import Identity, Module, Overflow, Route, Site, Topology

SITES = {"x": Site(name="x"), "hub": Site(name="hub", hub=True), "y": Site(name="y")}
PLACES = st.lists(st.sampled_from(sorted(SITES)), unique=True).map(tuple)


def topology(**fields: object) -> Topology:
    """Three sites; `a` runs at the hub and sends to `b`, which is the one in question."""
    b = Module(name="b", **fields)  # type: ignore[arg-type]  # as each test needs them
    return Topology(
        name="t", sites=SITES, modules={"a": Module(name="a", sites=("hub",), sinks=("b",)), "b": b}
    )


@st.composite
def asked(draw: st.DrawFn) -> tuple[Topology, str, Bound, int]:
    """Return any module at any sites, and any message for it that does not ask for a site."""
    found = topology(
        sites=draw(PLACES),
        route=draw(st.sampled_from(Route)),
        overflow=draw(st.none() | st.builds(Overflow, pending=st.integers(1, 9))),
    )
    bound = Bound(id=draw(st.text(min_size=1)), body=draw(st.binary()))
    return found, draw(st.sampled_from(sorted(SITES))), bound, draw(st.integers(0, 10))


@given(asked())
def test_every_message_finds_a_site_of_its_module(given_: tuple[Topology, str, Bound, int]) -> None:
    """The choice is total, repeats itself, and stays within `sites` and what `plan` shows."""
    found, here, bound, pending = given_

    site = choose(found, here, "b", bound, pending=pending)

    assert site in found.sites_of("b")
    assert site in reachable(found, here, "b")
    assert site == choose(found, here, "b", bound, pending=pending)


@given(asked(), st.sampled_from(sorted(SITES)))
def test_a_message_that_asks_is_heard_or_refused(
    given_: tuple[Topology, str, Bound, int], wish: str
) -> None:
    """`to_site` wins over every rule, and is an error where the module does not run."""
    found, here, bound, pending = given_
    asking = Bound(id=bound.id, body=bound.body, to_site=wish)
    if wish in found.sites_of("b"):
        assert choose(found, here, "b", asking, pending=pending) == wish
    else:
        with pytest.raises(BadMessage, match="does not run there"):
            choose(found, here, "b", asking, pending=pending)


@given(st.binary(), st.text(min_size=1), st.sampled_from(sorted(SITES)))
def test_one_body_goes_to_one_site(body: bytes, message_id: str, here: str) -> None:
    """With `body-hash`, neither the sender's site nor the id changes where a body goes."""
    found = topology(route=Route.BODY_HASH)

    chosen = choose(found, here, "b", Bound(id=message_id, body=body))

    assert chosen == choose(found, "hub", "b", Bound(id="other", body=body))


@pytest.mark.parametrize("route", [Route.SPREAD, Route.BODY_HASH])
def test_many_messages_share_the_sites(route: Route) -> None:
    """Spreading is even: each of three sites gets a third, give or take a tenth."""
    found = topology(route=route)

    counts = Counter(
        choose(found, "hub", "b", Bound(id=f"i{n}", body=b"%d" % n)) for n in range(3000)
    )

    assert set(counts) == set(SITES)
    assert max(counts.values()) < 1100


def test_the_order_of_the_file_moves_no_message() -> None:
    """Naming the sites in another order changes nothing for messages on their way."""
    forth = topology(route=Route.SPREAD, sites=("x", "hub", "y"))
    back = topology(route=Route.SPREAD, sites=("y", "hub", "x"))
    ids = [f"i{n}" for n in range(50)]

    assert [choose(forth, "x", "b", Bound(id=i)) for i in ids] == [
        choose(back, "x", "b", Bound(id=i)) for i in ids
    ]


@pytest.mark.parametrize(
    ("here", "pending", "expected"),
    [
        pytest.param("x", 0, {"x"}, id="at-home"),
        pytest.param("x", 9, {"x"}, id="a-small-backlog"),
        pytest.param("x", 10, {"y"}, id="too-much-waits"),
        pytest.param("hub", 99, {"x"}, id="from-elsewhere-to-the-first"),
    ],
)
def test_others_help_from_the_backlog_on(here: str, pending: int, expected: set[str]) -> None:
    """`local-first` stays at home until `overflow` says that enough waits there."""
    found = topology(sites=("x", "y"), overflow=Overflow(pending=10))

    actual = {choose(found, here, "b", Bound(id=f"i{n}"), pending=pending) for n in range(20)}

    assert expected == actual


def test_an_id_given_by_hand_goes_to_one_site_wherever_it_is_sent() -> None:
    """Sent again at another site, a message meets its done-record and does not run there, too."""
    found = topology()
    ids = [f"i{n}" for n in range(30)]
    chosen = [
        [choose(found, here, "b", Bound(id=i, repeatable=True)) for i in ids] for here in SITES
    ]

    assert chosen[0] == chosen[1] == chosen[2]
    assert set(chosen[0]) == set(SITES)


def test_a_body_that_is_its_identity_asks_for_no_site() -> None:
    """Two senders of one body cannot send it to two sites, which would both run it."""
    found = topology(route=Route.BODY_HASH, identity=Identity.BODY)

    with pytest.raises(BadMessage, match="identity: body"):
        choose(found, "hub", "b", Bound(id="i", to_site="x"))


def test_one_site_is_no_choice() -> None:
    """A topology without sites sends everything where it is."""
    found = Topology(name="t", modules={"b": Module(name="b")})

    assert choose(found, "local", "b", Bound(id="i")) == "local"
    assert destinations(found, "local") == ()
    assert list(crossings(found)) == []


def test_crossings_name_the_links_on_the_way() -> None:
    """From leaf to leaf a message passes two links, and none within a site."""
    found = topology(sites=("x", "hub"), route=Route.SPREAD)

    assert list(crossings(found)) == [
        Crossing(module="a", sink="b", origin="hub", target="x", links=(("x", "hub"),))
    ]
    assert links(found, "x", "y") == (("x", "hub"), ("y", "hub"))


def test_only_sites_with_modules_are_carried_to() -> None:
    """No courier waits for a site where nothing runs."""
    found = topology(sites=("x",))

    assert destinations(found, "y") == ("hub", "x")
    assert destinations(found, "hub") == ("x",)
