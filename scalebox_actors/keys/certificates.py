"""Certificates for links and servers: a development authority, and what it signs.

A deployment with an authority of its own puts its files under the same names instead.
"""

import datetime as dt
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from scalebox_actors import sites
from scalebox_actors.errors import BadInput
from scalebox_actors.keys.private import check_private, write_private
from scalebox_actors.topology.model import Site

AUTHORITY_KEY = "ca.key"
PrivateKey = ec.EllipticCurvePrivateKey
Authority = tuple[PrivateKey, x509.Certificate]

_AUTHORITY_DAYS, _CERTIFICATE_DAYS, _RENEW_DAYS = 3650, 825, 30


def make_authority(folder: Path, now: dt.datetime) -> Authority:
    """Return the authority of a folder; it is made once."""
    key_path, path = folder / AUTHORITY_KEY, folder / sites.AUTHORITY
    if key_path.exists() and path.exists():
        check_private(key_path)
        return _read_key(key_path), x509.load_pem_x509_certificate(path.read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    name = _common_name("scalebox_actors development CA")
    certificate = (
        _builder(name, name, key, now, _AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    write_private(key_path, _pem(key))
    write_private(path, certificate.public_bytes(serialization.Encoding.PEM))
    return key, certificate


def make_certificate(here: Path, site: Site, authority: Authority, now: dt.datetime) -> None:
    """Make the certificate of a site's servers unless there is one that will do."""
    _make(here / sites.CERTIFICATE, here / sites.PRIVATE_KEY, site, authority, now)


def make_route_certificate(here: Path, site: Site, now: dt.datetime) -> None:
    """Make what the servers of one site know each other by: a certificate that signs itself.

    The authority signs for every site, so it cannot tell a site's own servers from others.
    """
    _make(here / sites.ROUTE_CERTIFICATE, here / sites.ROUTE_KEY, site, None, now)


def _make(
    path: Path, key_path: Path, site: Site, authority: Authority | None, now: dt.datetime
) -> None:
    names, subject = _names(site), _common_name(sites.server_name(site.name))
    issuer = authority[1].subject if authority else subject
    if path.exists() and key_path.exists():
        check_private(key_path)
        if _serves(x509.load_pem_x509_certificate(path.read_bytes()), names, issuer, now):
            return
    key = ec.generate_private_key(ec.SECP256R1())
    uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        _builder(subject, issuer, key, now, _CERTIFICATE_DAYS)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .sign(authority[0] if authority else key, hashes.SHA256())
    )
    write_private(key_path, _pem(key))
    write_private(path, certificate.public_bytes(serialization.Encoding.PEM))


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _serves(
    there: x509.Certificate,
    names: list[x509.GeneralName],
    issuer: x509.Name,
    now: dt.datetime,
) -> bool:
    """Whether a certificate is still good: of our authority, for these names, and for a while."""
    said = there.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    ends = there.not_valid_after_utc
    return (
        there.issuer == issuer
        and set(names) <= set(said)
        and ends - now > dt.timedelta(days=_RENEW_DAYS)
    )


def _names(site: Site) -> list[x509.GeneralName]:
    """Return every name under which somebody may reach a server of the site."""
    addresses = [site.address, site.listen, *site.servers]
    hosts = {sites.split_address(address, 0)[0].strip("[]") for address in addresses if address}
    hosts = (hosts | {site.name, "localhost", "127.0.0.1", "::1"}) - {"0.0.0.0", "::"}  # noqa: S104 - none
    return [_name(host) for host in sorted(hosts)]


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PrivateKey, now: dt.datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=days))
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _read_key(path: Path) -> PrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, PrivateKey):
        raise BadInput("this is no elliptic-curve key", path=str(path))
    return key


def _pem(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
