"""What sites, and where modules run, must keep to: one hub, known names, groups that can meet.

Beside `checks.py` and used by it alone. What only a deployment needs, such as the hub's address,
is asked for by `sbx-actor conf` and not here: on one machine `run` needs none of it.
"""

import math
import re
from collections.abc import Iterator

from scalebox_actors import limits
from scalebox_actors.names import NAME_GRAMMAR, is_name
from scalebox_actors.topology.findings import Finding, Path, between, error, plain_text, warning
from scalebox_actors.topology.model import Identity, Module, Route, Site, Topology
from scalebox_actors.topology.quantity import show_size
from scalebox_actors.topology.wording import listed, shown, suggestion

CLUSTER = 3
"""Servers of a site with replicas: one of them may fail."""
BANDWIDTH_LEAST = limits.KIB
PATH_LENGTH = 4096
OVERFLOW_MOST = 10**9

_ADDRESS = re.compile(r"(?:[A-Za-z0-9_.-]{1,253}|\[[0-9a-fA-F:.]{2,45}\]):([0-9]{1,5})")
_HOST = re.compile(r"(?:[A-Za-z0-9_.-]{1,253}|\[[0-9a-fA-F:.]{2,45}\])(?::([0-9]{1,5}))?")


def check_sites(topology: Topology) -> Iterator[Finding]:
    """Find what is wrong with the sites themselves."""
    sites = topology.sites.values()
    hubs = [site.name for site in sites if site.hub]
    if len(sites) > 1 and not hubs:
        told = "one of the sites must have `hub: true`: the others join it"
        yield error(("sites",), told, rests_on=[("sites", site.name, "hub") for site in sites])
    for name in hubs[1:]:
        told = f"{shown(hubs[0])} is the hub already; there is one, and the others join it"
        yield error(("sites", name, "hub"), told)
    for site in sites:
        yield from _site(("sites", site.name), site, topology)


def check_module_sites(at: Path, module: Module, topology: Topology) -> Iterator[Finding]:
    """Find what is wrong with where a module runs and how messages find it."""
    yield from _places(at, module, topology)
    many = len(topology.sites_of(module.name)) > 1
    if module.route is not Route.LOCAL_FIRST and not many:
        yield warning((*at, "route"), "`route` says nothing for a module at one site")
    if module.overflow is not None:
        yield from _overflow((*at, "overflow"), module, many=many)
    if not many:
        return
    if module.gather is not None:
        yield error(
            (*at, "gather"),
            f"module {shown(module.name)} gathers, so it must run at one site (`site: …`): "
            "members of a group that arrive at different sites would never meet",
            rests_on=((*at, "sites"), ("sites",)),
        )
    if module.identity is Identity.BODY and module.route is Route.LOCAL_FIRST:
        yield error(
            (*at, "identity"),
            "with `identity: body` at several sites, one body may come to two of them; "
            "give `route: body-hash`",
            rests_on=((*at, "route"), (*at, "sites"), ("sites",)),
        )


def _places(at: Path, module: Module, topology: Topology) -> Iterator[Finding]:
    if module.sites and not topology.sites:
        told = "this topology has no `sites`; leave this out"
        yield error((*at, "sites"), told, at_key=True, rests_on=[("sites",)])
        return
    seen: set[str] = set()
    for index, site in enumerate(module.sites):
        where = (*at, "sites", index)
        if site in seen:
            yield error(where, f"site {shown(site)} is named twice")
        elif site not in topology.sites:
            hint = suggestion(site, topology.sites) or f"; there are {listed(topology.sites)}"
            yield error(where, f"site {shown(site)} is not a site of this topology{hint}")
        seen.add(site)


def _overflow(at: Path, module: Module, *, many: bool) -> Iterator[Finding]:
    pending = module.overflow.pending if module.overflow else 1
    if not 1 <= pending <= OVERFLOW_MOST:
        yield error((*at, "pending"), between("pending", pending, 1, OVERFLOW_MOST))
    if module.route is not Route.LOCAL_FIRST:
        told = f"`overflow` is for `route: local-first`, not `{module.route}`"
        yield error(at, told, rests_on=[(*at[:-1], "route")])
    elif not many:
        yield warning(at, "`overflow` says nothing for a module at one site")


def _site(at: Path, site: Site, topology: Topology) -> Iterator[Finding]:
    if not is_name(site.name):
        form = f"a name is {NAME_GRAMMAR}"
        yield error(at, f"{shown(site.name)} is no name: {form}", at_key=True)
    yield from plain_text((*at, "label"), site.label, limits.LABEL_LENGTH)
    if site.address:
        yield from _address((*at, "address"), site.address)
        if not site.hub and len(topology.sites) > 1:
            yield warning((*at, "address"), "only the hub's `address` is used; sites join the hub")
    yield from _address((*at, "listen"), site.listen)
    yield from _servers(at, site)
    for field in ("data_root", "store"):
        yield from _directory((*at, field), getattr(site, field))
    rate, bandwidth = site.link.rate, site.link.bandwidth
    if rate is not None and not (rate > 0 and math.isfinite(rate)):
        yield error((*at, "link", "rate"), f"`rate` must be more than 0, not {rate:g}")
    if bandwidth is not None and not BANDWIDTH_LEAST <= bandwidth <= 2**62:
        told = between("bandwidth", bandwidth, "1KiB", "4EiB", show_size)
        yield error((*at, "link", "bandwidth"), told)
    for module, priority in site.priorities.items():
        where = (*at, "priorities", module)
        if module not in topology.modules:
            hint = suggestion(module, topology.modules)
            told = f"{shown(module)} is not a module of this topology{hint}"
            yield error(where, told, at_key=True, rests_on=[("modules",)])
        if abs(priority) > limits.PRIORITY:
            yield error(where, between(module, priority, -limits.PRIORITY, limits.PRIORITY))


def _servers(at: Path, site: Site) -> Iterator[Finding]:
    if site.replicas not in (1, CLUSTER):
        yield error((*at, "replicas"), f"`replicas` must be 1 or {CLUSTER}, not {site.replicas}")
        return
    if site.replicas == 1 and len(site.servers) > 1:
        told = "several `servers` are for `replicas: 3`"
        yield error((*at, "servers"), told, rests_on=[(*at, "replicas")])
    if site.replicas == CLUSTER and site.servers and len(set(site.servers)) != CLUSTER:
        told = f"{len(set(site.servers))} different `servers`; `replicas: 3` needs {CLUSTER}"
        each = [(*at, "servers", index) for index in range(len(site.servers))]
        yield error((*at, "servers"), told, rests_on=[(*at, "replicas"), *each])
    for index, server in enumerate(site.servers):
        found = _HOST.fullmatch(server)
        if found is None or not _is_port(found[1] or "1"):
            yield error((*at, "servers", index), f"{shown(server)} is no `host` or `host:port`")
        elif found[1] and site.replicas == 1:
            told = "a port of `servers` is for `replicas: 3`; the port for clients is in `listen`"
            yield warning((*at, "servers", index), told)


def _address(at: Path, text: str) -> Iterator[Finding]:
    found = _ADDRESS.fullmatch(text)
    if found is None or not _is_port(found[1]):
        yield error(at, f"`{at[-1]}` must be `host:port`, not {shown(text)}")


def _is_port(digits: str) -> bool:
    return 1 <= int(digits) <= 65_535  # noqa: PLR2004 - the largest port


def _directory(at: Path, text: str) -> Iterator[Finding]:
    if not text:
        return
    if len(text) > PATH_LENGTH or not text.isprintable():
        yield error(at, f"{shown(text)} is no path of a directory")
    elif not text.startswith("/") or ".." in text.split("/"):
        yield error(at, f"`{at[-1]}` must be an absolute path without `..`, not {shown(text)}")
