"""The JSON Schema for editors agrees with the loader on the corpus."""

from pathlib import Path

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from unit.strategies import over_sites, topologies

from scalebox_actors.topology.model import (
    Batch,
    Gather,
    Keep,
    Limits,
    Link,
    Module,
    Overflow,
    Retry,
    Site,
    Topology,
)
from scalebox_actors.topology.read import TOP
from scalebox_actors.topology.render import render
from scalebox_actors.topology.schema import DESCRIPTIONS, schema
from scalebox_actors.yamlgate import load_plain

CORPUS = Path(__file__).parents[1] / "corpus" / "topology"
GOOD = sorted((CORPUS / "good").iterdir())
UNKNOWN = sorted((CORPUS / "bad").glob("refused-unknown-*.yaml"))
VALIDATOR = jsonschema.Draft202012Validator(schema())


def test_the_schema_is_a_schema() -> None:
    """It keeps to the draft that it names."""
    jsonschema.Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize("file", GOOD, ids=lambda file: file.stem)
def test_an_editor_accepts_what_the_loader_accepts(file: Path) -> None:
    """No good file is underlined in an editor."""
    assert [e.message for e in VALIDATOR.iter_errors(load_plain(file.read_bytes(), "t"))] == []


@pytest.mark.parametrize("file", UNKNOWN, ids=lambda file: file.stem)
def test_an_editor_sees_unknown_fields(file: Path) -> None:
    """A misspelt field is underlined while it is written."""
    assert not VALIDATOR.is_valid(load_plain(file.read_bytes(), "t"))


@settings(max_examples=15, deadline=None)
@given(topologies() | over_sites())
def test_an_editor_accepts_every_rendering(topology: Topology) -> None:
    """What we write ourselves fits as well."""
    assert VALIDATOR.is_valid(load_plain(render(topology), "t"))


def test_every_field_has_a_sentence() -> None:
    """Completion in an editor explains every field, and nothing that is none."""
    structs = (Module, Limits, Retry, Gather, Batch, Keep, Topology, Site, Link, Overflow)
    fields = {f.name for kind in structs for f in msgspec.structs.fields(kind)}

    assert set(DESCRIPTIONS) == (fields | set(TOP) | {"site"}) - {"name", "rules"}
