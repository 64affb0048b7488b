"""The file with which a role logs in: its seed, and whose it is.

The seed stands on a line of its own, so other NATS tools read the same file; the lines before it
are comments to them.
"""

import msgspec

from scalebox_actors.errors import BadInput
from scalebox_actors.names import is_name
from scalebox_actors.rights import Role, inbox

_SITE, _ROLE = "# site: ", "# role: "
_USER_SEED = "SU"
_SEED_LENGTH = 58


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """Who logs in, and with what; never printed."""

    seed: str
    site: str = ""
    role: str = ""

    @property
    def inbox(self) -> str:
        """The prefix of the subjects on which it may receive; empty: any."""
        return inbox(self.site, Role(self.role)) if self.site and self.role else ""

    def __repr__(self) -> str:
        return f"Login(site={self.site!r}, role={self.role!r})"


def write_login(login: Login) -> str:
    """Return the text of the file."""
    return (
        f"# Keep this file to yourself.\n{_SITE}{login.site}\n{_ROLE}{login.role}\n{login.seed}\n"
    )


def read_login(text: str, path: str) -> Login:
    """Return what a file says; raises BadInput that does not quote it."""
    site = role = seed = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith(_SITE):
            site = line.removeprefix(_SITE)
        elif line.startswith(_ROLE):
            role = line.removeprefix(_ROLE)
        elif line.startswith(_USER_SEED) and len(line) == _SEED_LENGTH:
            seed = line
    if not seed:
        raise BadInput("this file has no seed of an nkey user", path=path)
    if (site and not is_name(site)) or (role and role not in list(Role)):
        raise BadInput("this file names a site or a role that there cannot be", path=path)
    return Login(seed=seed, site=site, role=role)
