"""Key pairs of NATS users: the seed is the secret, the public half is all that a server knows."""

import secrets

import nkeys


def new_seed() -> str:
    """Return the seed of a new user."""
    return bytes(nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER)).decode()


def public_key(seed: str) -> str:
    """Return the public half."""
    return bytes(nkeys.from_seed(bytearray(seed.encode())).public_key).decode()
