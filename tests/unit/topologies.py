"""Topologies of a few lines: what they load as, and the error that refuses them."""

import pytest

from scalebox_actors.errors import BadInput
from scalebox_actors.topology.load import load
from scalebox_actors.topology.model import Topology


def topology(fields: str = "", **params: str) -> Topology:
    """Load a topology of one module with these fields besides its image."""
    text = f"topology: t\nmodules:\n  a:\n    image: i:1\n    {fields}\n"
    return load(text.encode(), path="t.yaml", params=params)


def refusal(text: str, **params: str) -> BadInput:
    """Return the error of a bad file."""
    with pytest.raises(BadInput) as caught:
        load(text.encode(), path="t.yaml", params=params)
    return caught.value
