"""Keys: made once, kept, renewed before they expire, and for their owner alone."""

import datetime as dt
import os
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from scalebox_actors.broker import Credentials
from scalebox_actors.cli.credentials import credentials_of
from scalebox_actors.cli.options import Common
from scalebox_actors.errors import BadInput
from scalebox_actors.keys.authority import builder, common_name, make_authority, read_key
from scalebox_actors.keys.certificates import check_host
from scalebox_actors.keys.folder import make_keys, read_keys
from scalebox_actors.keys.private import private_folder, write_private
from scalebox_actors.login import Login, read_login, write_login
from scalebox_actors.rights import Role
from scalebox_actors.topology.load import load
from scalebox_actors.topology.model import Topology

TEXT = """
topology: t
sites:
  hub: {hub: true, address: "hub.example:7422"}
  b: {listen: "10.0.0.7:4222"}
modules:
  m: {image: x}
"""
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@pytest.fixture
def topology() -> Topology:
    """Two sites."""
    return load(TEXT.encode(), path="t.yaml")


@pytest.fixture
def folder(tmp_path: Path, topology: Topology) -> Path:
    """A folder of keys, made with a umask that would let everybody in."""
    before = os.umask(0)
    try:
        make_keys(topology, tmp_path / "keys", now=NOW)
    finally:
        os.umask(before)
    return tmp_path / "keys"


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def certificate(folder: Path, site: str) -> x509.Certificate:
    """Return a site's certificate."""
    return x509.load_pem_x509_certificate((folder / site / "server.pem").read_bytes())


def own_authority(folder: Path) -> None:
    """Put an authority with an RSA key and a name of its own into a folder."""
    private_folder(folder)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = common_name("ours")
    ca = x509.BasicConstraints(ca=True, path_length=0)
    made = builder(name, name, key, NOW, 99).add_extension(ca, critical=True)
    pem = made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    write_private(folder / "ca.pem", pem)
    pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    secret = key.private_bytes(serialization.Encoding.PEM, pkcs8, plain)
    write_private(folder / "ca.key", secret)


def test_only_the_owner_may_look(folder: Path) -> None:
    """Folders have mode 0700 and files 0600, whatever the umask."""
    modes = {p.is_dir(): {q.stat().st_mode & 0o777 for q in folder.rglob("*")
             if q.is_dir() == p.is_dir()} for p in folder.rglob("*")}  # fmt: skip

    assert modes == {True: {0o700}, False: {0o600}}
    assert folder.stat().st_mode & 0o777 == 0o700


def test_every_site_has_its_roles(folder: Path) -> None:
    """A login per role and site; the hub has no link to a hub."""
    logins = {str(p.relative_to(folder)) for p in folder.rglob("*.nk")}
    roles = ("sender", "node", "trace", "admin")

    assert logins == {f"{s}/{r}.nk" for s in ("hub", "b") for r in roles} | {"b/leaf.nk"}


def test_made_again_nothing_changes(folder: Path, topology: Topology) -> None:
    """What is there is kept, byte for byte."""
    before = contents(folder)
    make_keys(topology, folder, now=NOW + dt.timedelta(days=100))

    assert contents(folder) == before


def test_a_certificate_is_renewed_in_time(folder: Path, topology: Topology) -> None:
    """One that ends within 30 days is replaced, and the logins stay."""
    first, login = certificate(folder, "b"), (folder / "b" / "node.nk").read_bytes()
    make_keys(topology, folder, now=NOW + dt.timedelta(days=800))

    assert certificate(folder, "b").not_valid_after_utc > first.not_valid_after_utc
    assert (folder / "b" / "node.nk").read_bytes() == login


def test_a_new_address_gets_a_certificate(folder: Path) -> None:
    """A hub that moves is reached under its new name."""
    moved = load(TEXT.replace("hub.example", "new.example").encode(), path="t.yaml")
    make_keys(moved, folder, now=NOW)
    names = certificate(folder, "hub").extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )

    assert "new.example" in names.value.get_values_for_type(x509.DNSName)


def test_a_site_is_known_by_what_its_clients_call_it(folder: Path) -> None:
    """The host in `servers` is in the certificate, and another is refused with the remedy."""
    named = load(TEXT.replace("b: {", "b: {servers: [b.example], ").encode(), path="t.yaml")
    with pytest.raises(
        BadInput, match=r"not for b\.example: name b\.example in `servers` of site b"
    ):
        check_host(folder / "b", "b", "b.example")
    make_keys(named, folder, now=NOW)

    check_host(folder / "b", "b", "b.example")
    check_host(folder / "b", "b", "10.0.0.7")


def test_a_wildcard_covers_one_name(folder: Path, topology: Topology) -> None:
    """A certificate of one's own may have `*.example` instead of every host."""
    authority = make_authority(folder, NOW)
    key = read_key(folder / "hub" / "server.key")
    said = certificate(folder, "hub").extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    names = [n for n in said.value if n != x509.DNSName("hub.example")]
    names.append(x509.DNSName("*.example"))
    assert authority.key is not None
    made = builder(common_name("hub"), authority.certificate.subject, key, NOW, 99).add_extension(
        x509.SubjectAlternativeName(names), critical=False
    )
    pem = made.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    (folder / "hub" / "server.pem").write_bytes(pem)
    make_keys(topology, folder, now=NOW)

    assert (folder / "hub" / "server.pem").read_bytes() == pem
    with pytest.raises(BadInput, match=r"not for a\.b\.example"):
        check_host(folder / "hub", "hub", "a.b.example")


def test_a_site_alone_is_enough(folder: Path, tmp_path: Path) -> None:
    """A site's host needs its own folder only, wherever it lies, and it holds no other's seed."""
    seeds = {p: read_login(p.read_text(), str(p)).seed for p in folder.rglob("*.nk")}
    alone = tmp_path / "copied"
    (folder / "b").rename(alone)
    text = b"".join(contents(alone).values()).decode()

    assert read_keys(alone, "b").folder == str(alone)
    assert [p for p, seed in seeds.items() if seed in text and p.parent.name != "b"] == []


def test_without_its_key_the_authority_stays(folder: Path, topology: Topology) -> None:
    """A `ca.key` that is kept elsewhere makes no second authority: everything stays as it was."""
    (folder / "ca.key").unlink()
    before = contents(folder)
    make_keys(topology, folder, now=NOW + dt.timedelta(days=800))

    assert contents(folder) == before


@pytest.mark.parametrize(
    ("name", "later", "why"),
    [
        pytest.param("server.pem", 0, "there is none", id="missing"),
        pytest.param("server.key", 0, "server.key is not beside it", id="its-key-missing"),
        pytest.param("leaf.nk", 826, "it ends on 2028-04-05", id="expired"),
    ],
)
def test_what_nobody_can_sign_is_named(
    folder: Path, topology: Topology, name: str, later: int, why: str
) -> None:
    """Without `ca.key` a certificate that is needed is an error, and nothing else is touched."""
    (folder / "ca.key").unlink()
    (folder / "b" / name).unlink()
    before = contents(folder)
    with pytest.raises(BadInput, match=rf"{why}.*put ca\.key back") as caught:
        make_keys(topology, folder, now=NOW + dt.timedelta(days=later))

    assert caught.value.path.endswith("server.pem")
    assert before.items() <= contents(folder).items()


def test_an_authority_that_is_elsewhere_is_asked_for(folder: Path, topology: Topology) -> None:
    """With `ca.pem` and `ca.key` both away the sites' authority is not replaced by a new one."""
    (folder / "ca.key").unlink()
    (folder / "ca.pem").unlink()
    before = contents(folder)
    with pytest.raises(BadInput, match=r"copy .*b/ca\.pem to this place"):
        make_keys(topology, folder, now=NOW)

    assert contents(folder) == before


@pytest.mark.parametrize("same_name", [True, False])
def test_certificates_of_others_are_not_overwritten(
    folder: Path, topology: Topology, tmp_path: Path, *, same_name: bool
) -> None:
    """What another authority signed stays, whatever that one is called."""
    if not same_name:
        own_authority(tmp_path / "other")
    make_keys(topology, tmp_path / "other", now=NOW)
    for file in ("server.pem", "server.key"):
        (tmp_path / "other" / "b" / file).rename(folder / "b" / file)
    before = contents(folder)
    with pytest.raises(BadInput, match="it is of another issuer"):
        make_keys(topology, folder, now=NOW)

    assert contents(folder) == before


def test_a_key_of_another_authority_signs_nothing(folder: Path, topology: Topology) -> None:
    """A `ca.key` that is not the key of `ca.pem` is refused before anything is written."""
    own_authority(folder)
    (folder / "ca.pem").write_bytes((folder / "hub" / "ca.pem").read_bytes())
    with pytest.raises(BadInput, match=r"ca\.key: this is not the key of"):
        make_keys(topology, folder, now=NOW)


def test_a_key_that_waits_is_certified(folder: Path, topology: Topology) -> None:
    """A server's key without a certificate is kept; one that fits none gets both made anew."""
    here = folder / "b"
    (here / "server.pem").unlink()
    kept = (here / "server.key").read_bytes()
    make_keys(topology, folder, now=NOW)

    assert (here / "server.key").read_bytes() == kept
    (here / "server.key").write_bytes((folder / "hub" / "server.key").read_bytes())
    make_keys(topology, folder, now=NOW)
    ours = certificate(folder, "b").public_key()
    assert read_key(here / "server.key").public_key() == ours
    assert ours != certificate(folder, "hub").public_key()


@pytest.mark.parametrize("name", ["ca.pem", "ca.key", "b/server.pem", "b/server.key"])
def test_what_is_no_pem_is_named(folder: Path, topology: Topology, name: str) -> None:
    """An empty file, as of a full disk, is an error with its path."""
    (folder / name).write_bytes(b"")
    with pytest.raises(BadInput, match="in PEM") as caught:
        make_keys(topology, folder, now=NOW)

    assert caught.value.path == str(folder / name)


def test_a_certificate_without_names_is_refused(folder: Path, topology: Topology) -> None:
    """It was not made here: the error says what it lacks."""
    authority = make_authority(folder, NOW)
    name = common_name("b")
    assert authority.key is not None
    bare = builder(name, authority.certificate.subject, authority.key, NOW, 9)
    pem = bare.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    (folder / "b" / "server.pem").write_bytes(pem)
    with pytest.raises(BadInput, match=r"b/server\.pem: it names no server"):
        make_keys(topology, folder, now=NOW)


def test_open_folders_are_refused(folder: Path, topology: Topology) -> None:
    """A folder or login that others may read is not used, and the error says what to type."""
    (folder / "b").chmod(0o755)
    with pytest.raises(BadInput, match="chmod 700"):
        make_keys(topology, folder, now=NOW)
    (folder / "b").chmod(0o700)
    (folder / "b" / "node.nk").chmod(0o644)
    with pytest.raises(BadInput, match="chmod 600"):
        credentials_of(Common(creds=str(folder / "b" / "node.nk")))


def test_missing_keys_are_named(tmp_path: Path) -> None:
    """Without keys the error says how they are made."""
    with pytest.raises(BadInput, match="conf --keys"):
        read_keys(tmp_path, "b")


@pytest.mark.parametrize("name", ["public.json", "node.nk"])
def test_keys_that_are_no_text_are_named(folder: Path, topology: Topology, name: str) -> None:
    """A file that somebody has spoilt ends in a sentence, not in a traceback."""
    path = folder / "b" / name
    path.write_bytes(b'{"a":{"\xff":""}}')
    with pytest.raises(BadInput, match=name):
        make_keys(topology, folder) if name == "node.nk" else read_keys(folder, "b")


def test_a_login_is_not_printed(folder: Path) -> None:
    """Neither its own text nor an error about it shows a seed."""
    path = folder / "b" / "node.nk"
    login = read_login(path.read_text(), str(path))
    with pytest.raises(BadInput) as caught:
        read_login(path.read_text().replace("role: node", "role: boss"), str(path))

    assert login.seed not in repr(login)
    assert login.seed not in str(caught.value)
    assert (login.site, login.role) == ("b", "node")


def test_a_login_is_read_as_it_was_written() -> None:
    """Site, role and seed come back; a seed alone will do, and receives anywhere."""
    login = Login(seed="SU" + "A" * 56, site="b", role=Role.TRACE)

    assert read_login(write_login(login), "f") == login
    assert login.inbox == "_INBOX_b.trace"
    assert read_login(login.seed, "f").inbox == ""


@pytest.mark.parametrize("text", ["", "nothing here", "SUSHORT", "# site: B!\nSU" + "A" * 56])
def test_what_is_no_login_is_refused(text: str) -> None:
    """A file without a seed, or of a site that cannot be, is refused by its path."""
    with pytest.raises(BadInput, match="f: this file"):
        read_login(text, "f")


def test_the_authority_is_found_beside_the_login(folder: Path) -> None:
    """One option is enough: who is trusted lies beside who logs in."""
    path = folder / "b" / "node.nk"

    assert credentials_of(Common(creds=str(path))) == Credentials(
        login=str(path), tls_ca=str(folder / "b" / "ca.pem")
    )
    assert credentials_of(Common()) is None
