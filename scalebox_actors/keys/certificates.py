"""Certificates of servers: made if there is none that will do, and never in place of a stranger's.

A deployment with an authority of its own puts its `ca.pem` and its certificates under the same
names. They are kept as long as that authority signed them; without its `ca.key` none is made.
"""

import datetime as dt
import ipaddress
from collections.abc import Sequence
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from scalebox_actors import sites
from scalebox_actors.errors import BadInput
from scalebox_actors.keys.authority import (
    AUTHORITY_KEY,
    Authority,
    belongs,
    builder,
    common_name,
    is_signed,
    new_key,
    read_certificate,
    read_key,
    usage,
)
from scalebox_actors.keys.private import write_private
from scalebox_actors.topology.model import Site

_DAYS, _RENEW_DAYS = 825, 30


class _Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a certificate and its key lie."""

    certificate: Path
    key: Path


def make_certificate(here: Path, site: Site, authority: Authority, now: dt.datetime) -> None:
    """Make the certificate of a site's servers unless there is one that will do.

    Raises BadInput if it is of another authority, or if one is needed and nobody here may sign.
    """
    place = _Place(certificate=here / sites.CERTIFICATE, key=here / sites.PRIVATE_KEY)
    spare = _RENEW_DAYS if authority.key else 0  # what cannot be renewed is used to its end
    why = _wanting(place, site, authority.certificate, now + dt.timedelta(days=spare))
    if why and authority.key is None:
        told = f"{why}, and {authority.key_path} is not there to sign one: put {AUTHORITY_KEY} back"
        raise BadInput(
            f"{told}, or a certificate of {sites.AUTHORITY} here", path=str(place.certificate)
        )
    if why:
        _make(place, site, authority, now)


def make_route_certificate(here: Path, site: Site, now: dt.datetime) -> None:
    """Make what the servers of one site know each other by: a certificate that signs itself.

    The authority signs for every site, so it cannot tell a site's own servers from others.
    """
    place = _Place(certificate=here / sites.ROUTE_CERTIFICATE, key=here / sites.ROUTE_KEY)
    if _wanting(place, site, None, now + dt.timedelta(days=_RENEW_DAYS)):
        _make(place, site, None, now)


def check_host(folder: Path, site: str, host: str) -> None:
    """Raise BadInput if who reaches a site's server as `host` would refuse its certificate."""
    path = folder / sites.CERTIFICATE
    said = _named(read_certificate(path), path)
    if not _covers(said, _name(host)):
        names = ", ".join(str(name.value) for name in said)
        raise BadInput(
            f"it is for {names} and not for {host}: name {host} in `servers` of site {site} in the "
            "topology, and let `conf --keys` make it again",
            path=str(path),
        )


def _wanting(place: _Place, site: Site, issuer: x509.Certificate | None, then: dt.datetime) -> str:
    """Return why a certificate must be made; empty if the one that is there will do until then."""
    if not place.certificate.exists():
        return "there is none"
    there = read_certificate(place.certificate)
    if not is_signed(there, issuer or there):
        who = sites.AUTHORITY if issuer else "itself"
        told = f"it is of another issuer ({there.issuer.rfc4514_string()}), not signed by {who}"
        hint = "it is not overwritten; take it away, and its key, for a new one"
        raise BadInput(f"{told}: {hint}", path=str(place.certificate))
    said = _named(there, place.certificate)
    lacking = [name for name in _names(site) if not _covers(said, name)]
    if lacking:
        return f"it lacks {', '.join(str(name.value) for name in lacking)}"
    if there.not_valid_after_utc <= then:
        return f"it ends on {there.not_valid_after_utc:%Y-%m-%d}"
    if not place.key.exists():
        return f"{place.key.name} is not beside it"
    return "" if belongs(there, read_key(place.key)) else f"{place.key.name} is not its key"


def _make(place: _Place, site: Site, authority: Authority | None, now: dt.datetime) -> None:
    """Make a certificate, for the key that waits for one or for a new key."""
    waits = place.key.exists() and not place.certificate.exists()
    key = read_key(place.key) if waits else new_key(place.key)
    subject = common_name(sites.server_name(site.name))
    issuer = authority.certificate.subject if authority else subject
    uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        builder(subject, issuer, key, now, _DAYS)
        .add_extension(x509.SubjectAlternativeName(_names(site)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .sign((authority.key if authority else None) or key, hashes.SHA256())
    )
    # Killed before this, the key fits no certificate here, and both are made again.
    write_private(place.certificate, certificate.public_bytes(serialization.Encoding.PEM))


def _named(certificate: x509.Certificate, path: Path) -> list[x509.GeneralName]:
    try:
        said = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, ValueError):
        raise BadInput("it names no server (no subjectAltName)", path=str(path)) from None
    return list(said.value)


def _names(site: Site) -> list[x509.GeneralName]:
    """Return every name under which somebody may reach a server of the site."""
    hosts = sites.own_names(site) | {site.name, "localhost", "127.0.0.1", "::1"}
    return [_name(host) for host in sorted(hosts)]


def _covers(said: Sequence[x509.GeneralName], name: x509.GeneralName) -> bool:
    """Whether a name is among those of a certificate, also by a `*` for its first part."""
    if name in said or not isinstance(name, x509.DNSName):
        return name in said
    _, dot, rest = name.value.partition(".")
    return bool(dot) and x509.DNSName(f"*.{rest}") in said


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
