"""The keys of a deployment: an nkey per role and site, and a development authority for TLS.

Everything lies in one folder, a folder per site in it, readable by their owner alone. Making keys
is safe to repeat: what is there is kept, what is missing or about to expire is made.
"""

import datetime as dt
import ipaddress
import os
import secrets
from pathlib import Path

import msgspec
import nkeys
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from scalebox_actors import sites
from scalebox_actors.errors import BadInput
from scalebox_actors.login import Login, read_login, write_login
from scalebox_actors.rights import CLIENTS, Role
from scalebox_actors.topology.model import Site, Topology

AUTHORITY_KEY = "ca.key"
PUBLIC = "public.json"
"""Site and role to public nkey: all that one site must know of the others."""

_AUTHORITY_DAYS, _CERTIFICATE_DAYS, _RENEW_DAYS = 3650, 825, 30
_FILE, _FOLDER, _OTHERS = 0o600, 0o700, 0o077
_USER_PREFIX = nkeys.PREFIX_BYTE_USER
_PrivateKey = ec.EllipticCurvePrivateKey


def login_file(role: str) -> str:
    """`<role>.nk`: the file with which a role logs in."""
    return f"{role}.nk"


def make_keys(topology: Topology, folder: Path, *, now: dt.datetime | None = None) -> None:
    """Make what keys of a topology's sites are missing in `folder`.

    Raises BadInput if others may read the folder, or if what is there cannot be used.
    """
    moment = now or dt.datetime.now(dt.UTC)
    _private_folder(folder)
    authority = _authority(folder, moment)
    public: dict[str, dict[str, str]] = {}
    for site in topology.site_names:
        here = folder / site
        _private_folder(here)
        leaf = site != topology.hub
        roles = (*CLIENTS, Role.LEAF) if leaf else CLIENTS
        logins = {role: _login(here / login_file(role), site, role) for role in roles}
        public[site] = {role: _public_key(login) for role, login in logins.items()}
        _certificate(here, sites.site_of(topology, site), authority, moment)
        _secrets(here, logins.get(Role.LEAF))
        _write(here / sites.AUTHORITY, (folder / sites.AUTHORITY).read_bytes())
    _write(folder / PUBLIC, msgspec.json.format(msgspec.json.encode(public), indent=2) + b"\n")


def read_keys(folder: Path, site: str, *, installed: str = "", beside: str = "") -> sites.Keys:
    """Return what the configuration of a site says of its keys.

    `installed` is their folder on the server's host, if it is not where they are now; `beside`
    the way there from the configuration file, if that does not lie in the same folder.
    """
    try:
        users = msgspec.json.decode((folder / PUBLIC).read_bytes(), type=dict[str, dict[str, str]])
    except FileNotFoundError:
        raise BadInput(f"there are no keys in {folder}: make them with `conf --keys`") from None
    except msgspec.MsgspecError as error:
        raise BadInput(f"it cannot be read: {error}", path=str(folder / PUBLIC)) from None
    return sites.Keys(
        folder=installed or str((folder / site).absolute()),
        beside=beside,
        users=users,
    )


def check_private(path: Path) -> None:
    """Raise BadInput if others than its owner may read or write a file or folder."""
    mode = path.stat().st_mode
    if mode & _OTHERS:
        wanted = _FOLDER if path.is_dir() else _FILE
        told = f"mode {mode & 0o777:o} lets others at it; `chmod {wanted:o}` it"
        raise BadInput(told, path=str(path))


# --- nkeys --------------------------------------------------------------------------------------


def _login(path: Path, site: str, role: Role) -> Login:
    if path.exists():
        check_private(path)
        return read_login(path.read_text(), str(path))
    seed = nkeys.encode_seed(secrets.token_bytes(32), _USER_PREFIX).decode()
    login = Login(seed=seed, site=site, role=role)
    _write(path, write_login(login).encode())
    return login


def _public_key(login: Login) -> str:
    pair = nkeys.from_seed(bytearray(login.seed.encode()))
    return bytes(pair.public_key).decode()


def _secrets(here: Path, leaf: Login | None) -> None:
    """Write the variables that the configuration names; the password is made once."""
    if leaf is not None:
        _write(here / sites.LEAF_FILE, f'{sites.LEAF_SEED}: "{leaf.seed}"\n'.encode())
    route = here / sites.ROUTE_FILE
    if route.exists():
        check_private(route)
    else:
        _write(route, f'{sites.ROUTE_PASSWORD}: "{secrets.token_hex(32)}"\n'.encode())


# --- certificates -------------------------------------------------------------------------------


def _authority(folder: Path, now: dt.datetime) -> tuple[_PrivateKey, x509.Certificate]:
    key_path, path = folder / AUTHORITY_KEY, folder / sites.AUTHORITY
    if key_path.exists() and path.exists():
        check_private(key_path)
        return _read_key(key_path), x509.load_pem_x509_certificate(path.read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "scalebox_actors development CA")])
    certificate = (
        _builder(name, name, key, now, _AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    _write(key_path, _pem(key))
    _write(path, certificate.public_bytes(serialization.Encoding.PEM))
    return key, certificate


def _certificate(
    here: Path, site: Site, authority: tuple[_PrivateKey, x509.Certificate], now: dt.datetime
) -> None:
    """Make the certificate of a site's servers unless there is one that will do."""
    path, key_path = here / sites.CERTIFICATE, here / sites.PRIVATE_KEY
    names = _names(site)
    if path.exists() and key_path.exists():
        check_private(key_path)
        if _serves(x509.load_pem_x509_certificate(path.read_bytes()), names, authority[1], now):
            return
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, sites.server_name(site.name))])
    uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        _builder(subject, authority[1].subject, key, now, _CERTIFICATE_DAYS)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .sign(authority[0], hashes.SHA256())
    )
    _write(key_path, _pem(key))
    _write(path, certificate.public_bytes(serialization.Encoding.PEM))


def _serves(
    there: x509.Certificate,
    names: list[x509.GeneralName],
    authority: x509.Certificate,
    now: dt.datetime,
) -> bool:
    """Whether a certificate is still good: of our authority, for these names, and for a while."""
    said = there.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    ends = there.not_valid_after_utc
    return (
        there.issuer == authority.subject
        and set(names) <= set(said)
        and ends - now > dt.timedelta(days=_RENEW_DAYS)
    )


def _names(site: Site) -> list[x509.GeneralName]:
    """Return every name under which somebody may reach a server of the site."""
    addresses = [site.address, site.listen, *site.servers]
    hosts = {sites.split_address(address, 0)[0].strip("[]") for address in addresses if address}
    hosts = (hosts | {"localhost", "127.0.0.1", "::1"}) - {"0.0.0.0", "::"}  # noqa: S104 - none
    return [_name(host) for host in sorted(hosts)]


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: _PrivateKey, now: dt.datetime, days: int
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


def _read_key(path: Path) -> _PrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, _PrivateKey):
        raise BadInput("this is no elliptic-curve key", path=str(path))
    return key


def _pem(key: _PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


# --- files --------------------------------------------------------------------------------------


def _private_folder(folder: Path) -> None:
    if folder.exists():
        check_private(folder)
    else:
        folder.mkdir(mode=_FOLDER, parents=True)
        folder.chmod(_FOLDER)  # whatever the umask says


def _write(path: Path, data: bytes) -> None:
    """Write a file that nobody else can ever open, and that is never there in part."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _FILE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        os.fsync(descriptor)
    part.replace(path)
