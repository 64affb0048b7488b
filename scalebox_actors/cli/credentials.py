"""What a command logs in with: files that their owner alone may read."""

from pathlib import Path

from scalebox_actors.broker import Credentials
from scalebox_actors.cli.options import Common
from scalebox_actors.errors import BadInput
from scalebox_actors.keys.private import check_private
from scalebox_actors.login import read_login
from scalebox_actors.rights import Role
from scalebox_actors.sites import AUTHORITY

_JWT = "BEGIN NATS USER JWT"


def credentials_of(common: Common) -> Credentials | None:
    """Return the credentials that the options mean, or None.

    Raises BadInput for a file that is missing, is none, or may be read by others.
    """
    if not (common.creds or common.ca or common.insecure):
        return None
    authority = common.ca
    if authority is None and common.creds:
        beside = Path(common.creds).parent / AUTHORITY
        authority = str(beside) if beside.exists() else None
    elif authority is not None:
        _text(authority)
    if not common.creds:
        return Credentials(tls_ca=authority, insecure=common.insecure)
    text = _text(common.creds)
    check_private(Path(common.creds))
    if _JWT in text:
        return Credentials(creds=common.creds, tls_ca=authority, insecure=common.insecure)
    read_login(text, common.creds)
    return Credentials(login=common.creds, tls_ca=authority, insecure=common.insecure)


def may_answer(common: Common) -> bool:
    """Whether a node may answer for its site: reading and changing all of it is not a node's.

    With least privilege the clerk of a site is the process of its server.
    """
    if not common.creds:
        return True
    text = _text(common.creds)
    return _JWT in text or read_login(text, common.creds).role in ("", Role.ADMIN)


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except UnicodeDecodeError:
        raise BadInput("this is no file of credentials", path=path) from None
    except OSError as error:
        raise BadInput(f"credentials cannot be read: {error.strerror}", path=path) from None
