"""Who may say what on NATS: the least subjects that each role needs, and not one more.

The lists are what the code really uses; a call that needs a new subject is denied until it is
written here, and `docs/security.md` tells the operator of it.
"""

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from scalebox_actors.names import Names
from scalebox_actors.topology.model import Topology


class Role(StrEnum):
    """Whom a login stands for."""

    SENDER = "sender"
    """Gives messages to the modules that no other module feeds."""
    NODE = "node"
    """Runs the modules of a site and carries what goes to other sites."""
    TRACE = "trace"
    """Looks at run records and backlogs; sees no body of a waiting message."""
    ADMIN = "admin"
    """Makes, reads and removes everything of its site."""
    LEAF = "leaf"
    """The link of a site to the hub; no person and no node uses it."""


CLIENTS = (Role.SENDER, Role.NODE, Role.TRACE, Role.ADMIN)
"""The roles that log in at their own site's server."""

LOOKING = ("status", "look", "trace", "dead")
"""The control verbs that change nothing."""


class Rights(msgspec.Struct, frozen=True, kw_only=True):
    """What a login may publish and subscribe; everything else is denied."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def inbox(site: str, role: Role) -> str:
    """`_INBOX_S.<role>`: where a role receives its answers.

    The site is in it so that the lists of a leaf link can name it, the role so that no other
    login of the site can listen.
    """
    return f"_INBOX_{site}.{role}"


def rights(topology: Topology, site: str, role: Role) -> Rights:
    """Return what a role may do at a site; for LEAF, what its link may carry, seen by the hub."""
    names = Names(topology.name, site)
    match role:
        case Role.SENDER:
            publish = _sender(topology, names)
        case Role.NODE:
            publish = _node(topology, names)
        case Role.TRACE:
            publish = _trace(topology, names)
        case Role.ADMIN:
            publish = _admin(topology, names)
        case Role.LEAF:
            return _leaf(topology, site)
    listens = [f"{inbox(site, role)}.>"]
    if role in (Role.NODE, Role.ADMIN):
        listens.append(names.ctl(">"))
    return Rights(publish=_unique(publish), subscribe=tuple(listens))


def island(site: str) -> tuple[str, ...]:
    """Return the subjects of a site that no link may carry, whatever the other end allows.

    A second lock for a link whose hub has no allow lists: what is stored at a site, its
    JetStream API and its acknowledgements stay there.
    """
    kept = ("out", "done", "dead", "join", "result", "trace")
    return (*(f"sbx.*.{site}.{kind}.>" for kind in kept), "$JS.>", "$KV.>", "$O.>")


# --- the roles ----------------------------------------------------------------------------------


def _sender(topology: Topology, names: Names) -> list[str]:
    return [
        *(s for entry in topology.entries for s in _to(topology, names, entry)),
        *_looks_at(names.stream),
        *_topology_file(names),
        *(f"$JS.API.CONSUMER.INFO.{names.stream}.{names.consumer(e)}" for e in topology.entries),
    ]


def _node(topology: Topology, names: Names) -> list[str]:
    here = topology.modules_at(names.site)
    stream = names.stream
    subjects = [
        *(s for module in here for s in _module(topology, names, module)),
        *(s for module in _carried(topology, names.site) for s in _ends(names, module)),
        names.trace("*"),
        *_looks_at(stream, names.trace_stream, f"KV_{names.bucket}", f"KV_{names.nodes_bucket}"),
        *_topology_file(names),
        *(s for key in ("try.>", "node.>", "link.>") for s in _key(names.bucket, key)),
        *_key(names.nodes_bucket, ">"),
    ]
    for other in _others(topology, names.site):
        subjects += [
            *_consumes(stream, names.courier(other)),
            *(names.at(other).task(module) for module in topology.modules_at(other)),
            names.at(other).ctl(">"),
            f"$JS.{other}.API.INFO",  # asked at every start, and not to be answered
        ]
    # A question may come from every site, and so may the questioner.
    subjects += [names.ctl(">"), *(f"_INBOX_{site}.>" for site in topology.site_names)]
    if any(topology.modules[module].gather for module in here):
        # Members of a group are read by pattern and purged behind it, and JetStream's API knows
        # no smaller right for either than the whole stream.
        subjects += [f"$JS.API.DIRECT.GET.{stream}", f"$JS.API.STREAM.PURGE.{stream}"]
    return subjects


def _module(topology: Topology, names: Names, name: str) -> list[str]:
    """Return what running one module takes."""
    module = topology.modules[name]
    subjects = [
        *_consumes(names.stream, names.consumer(name)),
        *_ends(names, name),
        *(s for sink in module.sinks for s in _to(topology, names, sink)),
    ]
    if not module.sinks:
        subjects.append(names.result(name))
    if module.gather:
        join = names.group(name, ">")
        subjects += [join, f"$JS.API.DIRECT.GET.{names.stream}.{join}", names.task(name)]
    return subjects


def _ends(names: Names, module: str) -> list[str]:
    """Return what it takes to write how a message for a module ended, and to see that it did."""
    done = names.done(module, "*")
    return [done, f"$JS.API.DIRECT.GET.{names.stream}.{done}", names.dead(module, "*")]


def _carried(topology: Topology, site: str) -> list[str]:
    """Return the modules of other sites alone for which messages arise at this one.

    Its couriers bury what nobody could read: of senders, who feed the entries, and of its nodes.
    """
    here = topology.modules_at(site)
    fed = {*topology.entries, *(s for module in here for s in topology.modules[module].sinks)}
    return [name for name in topology.modules if name in fed and name not in here]


def _trace(topology: Topology, names: Names) -> list[str]:
    trace = names.trace_stream
    sites = (names.site, *_others(topology, names.site))
    return [
        *_looks_at(names.stream, trace, f"KV_{names.bucket}"),
        f"$JS.API.CONSUMER.INFO.{names.stream}.*",
        f"$JS.API.DIRECT.GET.{trace}",
        f"$JS.API.DIRECT.GET.{trace}.>",
        *_topology_file(names),
        *(
            f"$JS.API.DIRECT.GET.KV_{names.bucket}.$KV.{names.bucket}.{key}.>"
            for key in ("node", "link")
        ),
        *(names.at(site).ctl(verb) for site in sites for verb in LOOKING),
    ]


def _admin(topology: Topology, names: Names) -> list[str]:
    return [
        f"sbx.{names.topology}.>",
        "$JS.API.>",
        "$JS.ACK.>",
        "$KV.>",
        *(f"$JS.{other}.API.INFO" for other in _others(topology, names.site)),
        *(f"_INBOX_{site}.>" for site in topology.site_names),
    ]


def _leaf(topology: Topology, site: str) -> Rights:
    others = _others(topology, site)
    return Rights(
        publish=(
            *(f"sbx.*.{other}.task.>" for other in others),
            # Its own inbox, too: whoever else runs under its name must be heard.
            *(f"_INBOX_{name}.>" for name in topology.site_names),
            "sbx.*.*.ctl.>",
        ),
        subscribe=(f"sbx.*.{site}.task.>", f"_INBOX_{site}.>", "sbx.*.*.ctl.>"),
    )


# --- what they are made of ----------------------------------------------------------------------


def _others(topology: Topology, site: str) -> tuple[str, ...]:
    return tuple(other for other in topology.site_names if other != site)


def _to(topology: Topology, names: Names, module: str) -> list[str]:
    """Return where a message for a module is written at this site, wherever the module runs."""
    sites = topology.sites_of(module)
    return [
        *(names.task(module) for site in sites if site == names.site),
        *(
            subject
            for site in sites
            if site != names.site
            for subject in (names.out(site, module), names.parcel(site, module))
        ),
    ]


def _looks_at(*streams: str) -> list[str]:
    return [f"$JS.API.STREAM.INFO.{stream}" for stream in streams]


def _topology_file(names: Names) -> list[str]:
    bucket = names.bucket
    return [
        f"$JS.API.STREAM.INFO.KV_{bucket}",
        f"$JS.API.DIRECT.GET.KV_{bucket}.$KV.{bucket}.topology",
    ]


def _key(bucket: str, key: str) -> list[str]:
    return [f"$KV.{bucket}.{key}", f"$JS.API.DIRECT.GET.KV_{bucket}.$KV.{bucket}.{key}"]


def _consumes(stream: str, consumer: str) -> list[str]:
    return [
        f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}",
        f"$JS.API.CONSUMER.INFO.{stream}.{consumer}",
        f"$JS.ACK.{stream}.{consumer}.>",
        f"$JS.ACK.*.*.{stream}.{consumer}.>",  # as later servers spell it
    ]


def _unique(subjects: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(subjects))
