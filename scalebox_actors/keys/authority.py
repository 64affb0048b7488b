"""Who signs the certificates of a deployment, and what can be read of files in PEM.

An authority is made for a folder that has none, and never again: what it signed would be worth
nothing. Its key may lie elsewhere; then nothing new is signed, and what is there is judged.
"""

import datetime as dt
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from scalebox_actors import sites
from scalebox_actors.errors import BadInput
from scalebox_actors.keys.private import check_private, write_private

AUTHORITY_KEY = "ca.key"
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

_DAYS = 3650


class Authority(msgspec.Struct, frozen=True, kw_only=True):
    """Whose signature the sites trust."""

    certificate: x509.Certificate
    key_path: Path
    key: PrivateKey | None
    """None if it is kept elsewhere."""


def make_authority(folder: Path, now: dt.datetime) -> Authority:
    """Return the authority of a folder; it is made if there never was one."""
    key_path, path = folder / AUTHORITY_KEY, folder / sites.AUTHORITY
    key = _key_there(key_path)
    if not path.exists():
        return _new_authority(path, key_path, key, now)
    certificate = read_certificate(path)
    if key is not None and not belongs(certificate, key):
        told = f"this is not the key of {path}: take it away, or put its own here"
        raise BadInput(told, path=str(key_path))
    return Authority(certificate=certificate, key_path=key_path, key=key)


def is_signed(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether a certificate bears the signature of another and not only its name."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def belongs(certificate: x509.Certificate, key: PrivateKey) -> bool:
    """Whether a certificate is of this key."""
    return certificate.public_key() == key.public_key()


def read_certificate(path: Path) -> x509.Certificate:
    """Return the certificate in a file; raises BadInput if there is none."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError:
        raise BadInput("this is no certificate in PEM", path=str(path)) from None


def read_key(path: Path) -> PrivateKey:
    """Return the key in a private file; raises BadInput if there is none that can be used."""
    check_private(path)
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError):
        told = "this is no private key in PEM without a passphrase"
        raise BadInput(told, path=str(path)) from None
    if not isinstance(key, PrivateKey):
        raise BadInput("this is neither an elliptic-curve nor an RSA key", path=str(path))
    return key


def new_key(path: Path) -> PrivateKey:
    """Make a key and keep it in a file."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    write_private(path, pem)
    return key


def common_name(name: str) -> x509.Name:
    """Return a name that has nothing else in it."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def builder(
    subject: x509.Name, issuer: x509.Name, key: PrivateKey, now: dt.datetime, days: int
) -> x509.CertificateBuilder:
    """Return the beginning of a certificate that holds from now on."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=days))
    )


def usage(*, signs: bool) -> x509.KeyUsage:
    """Return what a key is for: to sign certificates, or to be known by."""
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


def _key_there(path: Path) -> PrivateKey | None:
    return read_key(path) if path.exists() else None


def _new_authority(
    path: Path, key_path: Path, key: PrivateKey | None, now: dt.datetime
) -> Authority:
    known = next(iter(sorted(path.parent.glob(f"*/{path.name}"))), None)
    if known is not None:
        told = f"it is not here, but sites trust one already: copy {known} to this place"
        raise BadInput(told, path=str(path))
    key = key or new_key(key_path)  # killed after this, the next call goes on with it
    name = common_name("scalebox_actors development CA")
    certificate = (
        builder(name, name, key, now, _DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(signs=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    write_private(path, certificate.public_bytes(serialization.Encoding.PEM))
    return Authority(certificate=certificate, key_path=key_path, key=key)
