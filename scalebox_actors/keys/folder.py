"""The keys of a deployment: an nkey per role and site, and a development authority for TLS.

Everything lies in one folder, a folder per site in it, readable by their owner alone. Making keys
is safe to repeat: what is there is kept, what is missing or about to expire is made.
"""

import datetime as dt
from pathlib import Path

import msgspec

from scalebox_actors import sites
from scalebox_actors.errors import UNREADABLE, BadInput
from scalebox_actors.keys.authority import make_authority
from scalebox_actors.keys.certificates import (
    make_certificate,
    make_route_certificate,
)
from scalebox_actors.keys.nkey import new_seed, public_key
from scalebox_actors.keys.private import check_private, private_folder, write_private
from scalebox_actors.login import Login, read_login, write_login
from scalebox_actors.rights import CLIENTS, Role
from scalebox_actors.topology.model import Topology

PUBLIC = "public.json"
"""Site and role to public nkey: all that one site must know of the others."""


def login_file(role: str) -> str:
    """`<role>.nk`: the file with which a role logs in."""
    return f"{role}.nk"


def site_folder(folder: Path, site: str) -> Path:
    """Return the folder of one site; on the site's own host it was copied alone."""
    inside = folder / site
    return inside if inside.is_dir() else folder


def make_keys(topology: Topology, folder: Path, *, now: dt.datetime | None = None) -> None:
    """Make what keys of a topology's sites are missing in `folder`.

    Raises BadInput if others may read the folder, or if what is there cannot be used.
    """
    moment = now or dt.datetime.now(dt.UTC)
    private_folder(folder)
    authority = make_authority(folder, moment)
    public: dict[str, dict[str, str]] = {}
    for site in topology.site_names:
        here = folder / site
        private_folder(here)
        leaf = site != topology.hub
        roles = (*CLIENTS, Role.LEAF) if leaf else CLIENTS
        logins = {role: _login(here / login_file(role), site, role) for role in roles}
        public[site] = {role: public_key(login.seed) for role, login in logins.items()}
        place = sites.site_of(topology, site)
        make_certificate(here, place, authority, moment)
        if place.replicas > 1:
            make_route_certificate(here, place, moment)
        _seed_file(here, logins.get(Role.LEAF))
        write_private(here / sites.AUTHORITY, (folder / sites.AUTHORITY).read_bytes())
    known = msgspec.json.format(msgspec.json.encode(public), indent=2) + b"\n"
    for site in topology.site_names:
        write_private(folder / site / PUBLIC, known)


def read_keys(folder: Path, site: str, *, installed: str = "", beside: str = "") -> sites.Keys:
    """Return what the configuration of a site says of its keys.

    `installed` is their folder on the server's host, if it is not where they are now; `beside`
    the way there from the configuration file, if that does not lie in the same folder.
    """
    home = site_folder(folder, site)
    try:
        users = msgspec.json.decode((home / PUBLIC).read_bytes(), type=dict[str, dict[str, str]])
    except FileNotFoundError:
        raise BadInput(f"there are no keys in {home}: make them with `conf --keys`") from None
    except UNREADABLE as error:
        raise BadInput(f"it cannot be read: {error}", path=str(home / PUBLIC)) from None
    return sites.Keys(
        folder=installed or str(home.absolute()),
        beside=beside,
        users=users,
    )


# --- nkeys --------------------------------------------------------------------------------------


def _login(path: Path, site: str, role: Role) -> Login:
    if path.exists():
        check_private(path)
        return read_login(path.read_text(errors="backslashreplace"), str(path))
    login = Login(seed=new_seed(), site=site, role=role)
    write_private(path, write_login(login).encode())
    return login


def _seed_file(here: Path, leaf: Login | None) -> None:
    """Write the variable that the configuration of a leaf names."""
    if leaf is not None:
        write_private(here / sites.LEAF_FILE, f'{sites.LEAF_SEED}: "{leaf.seed}"\n'.encode())
