"""What is written down is true: links lead somewhere, tables and snippets agree with the code."""

import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scalebox_actors import limits
from scalebox_actors.cli.commands import COMMANDS
from scalebox_actors.cli.node import node
from scalebox_actors.contract import READ_FILES, parse_sink_tasks
from scalebox_actors.launch.environment import Surroundings, environment
from scalebox_actors.message import Message
from scalebox_actors.policy import Reason
from scalebox_actors.ports import Task
from scalebox_actors.topology.load import load
from scalebox_actors.topology.model import Gather, Limits, Module, Retry
from scalebox_actors.topology.read import MODULE, SITE, TOP

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("examples/*/*.md")])

DOCS = ROOT / "docs"
README_LINES = 150
ADR_LINES = 60

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_LIMIT = re.compile(r"^\| `([A-Z_]+)` \| ([0-9.,]+)(?: (\w+))? \|", re.MULTILINE)
_FIELD = re.compile(r"^\| `([a-z_]+)` \|", re.MULTILINE)
_FORM = re.compile(r"^\| [1-7] \| ([^|]+) \| `(.+)` \|$", re.MULTILINE)
_FIRST_CELL = re.compile(r"^\| (`[^|]+) \|", re.MULTILINE)
_CODE = re.compile(r"`([^`]+)`")
_COMMAND = re.compile(r"\bsbx-actor ([a-z][a-z-]*)")
_ANY_OF_THEM = "command"  # `sbx-actor command …`: an example of the manner, not a command
_UNITS = {
    "": 1,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
    "s": 1,
    "h": 3600,
    "d": 24 * 3600,
}


def name_of(path: Path) -> str:
    """Return how a page is called in a test's id."""
    return str(path.relative_to(ROOT))


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return _FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as code hosts make them."""
    kept = (re.sub(r"[^\w\- ]", "", text.lower()) for text in _HEADING.findall(prose(page)))
    return {text.replace(" ", "-") for text in kept}


def broken_links(page: Path) -> Iterator[str]:
    """Yield the relative links of a page that lead nowhere."""
    for link in _LINK.findall(prose(page)):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


def snippets(language: str) -> list[object]:
    """Return the fenced blocks of a language in all pages, as parameters of a test."""
    return [
        pytest.param(text, id=f"{name_of(page)}-{number}")
        for page in PAGES
        for number, (word, text) in enumerate(_FENCE.findall(page.read_text()), start=1)
        if word == language
    ]


def section(page: Path, heading: str) -> str:
    """Return what stands below a heading, up to the next one of its level or above."""
    text = page.read_text()
    level = heading.partition(" ")[0]
    after = text[text.index(f"\n{heading}\n") + len(heading) + 2 :]
    return re.split(rf"^#{{1,{len(level)}}} ", after, maxsplit=1, flags=re.MULTILINE)[0]


def first_cells(page: Path, heading: str) -> set[str]:
    """Return everything in code letters in the first column of a section's tables."""
    cells = _FIRST_CELL.findall(section(page, heading))
    return {word for cell in cells for word in _CODE.findall(cell)}


def commands_in(text: str) -> set[str]:
    """Return the words that stand where a command of ours would."""
    return set(_COMMAND.findall(text)) - {_ANY_OF_THEM}


def test_readme_is_short() -> None:
    """A newcomer reads the README to its end."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page leads to a file, and to a heading if it names one."""
    assert list(broken_links(page)) == []


def test_every_page_is_linked() -> None:
    """No page of the documentation can only be found by listing the folder."""
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in PAGES
        for link in _LINK.findall(prose(page))
        if "://" not in link
    }

    assert [name_of(p) for p in DOCS.rglob("*.md") if p.resolve() not in linked] == []


def test_limits_are_the_limits() -> None:
    """The table of limits has a row for every constant, and each row its value."""
    told = {
        name: float(number.replace(",", "")) * _UNITS[unit]
        for name, number, unit in _LIMIT.findall((DOCS / "limits.md").read_text())
    }
    real = {
        name: float(value)
        for name, value in vars(limits).items()
        if name.isupper() and name not in ("KIB", "MIB")
    }

    assert told == real


@pytest.mark.parametrize("text", snippets("yaml"))
def test_topologies_are_valid(text: str) -> None:
    """Every YAML snippet is a topology that loads."""
    assert load(text.encode(), path="snippet.yaml").modules


@pytest.mark.parametrize("text", snippets("python"))
def test_python_is_python(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python snippet runs by itself, with nothing to read."""
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    exec(compile(text, "snippet.py", "exec"), {})  # noqa: S102 - it is ours


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_exist(page: Path) -> None:
    """A page mentions no command that the command line does not have."""
    assert commands_in(page.read_text()) - set(COMMANDS) == set()


def test_every_command_is_told_of() -> None:
    """The operator's page mentions every command."""
    told = commands_in((DOCS / "operations.md").read_text())

    assert set(COMMANDS) - told == set()


@pytest.mark.parametrize(
    ("heading", "fields"),
    [
        pytest.param("## Top level", set(TOP), id="topology"),
        pytest.param("## A module", set(MODULE), id="module"),
        pytest.param("### limits", set(Limits.__struct_fields__), id="limits"),
        pytest.param("### retry", set(Retry.__struct_fields__) - {"rules"}, id="retry"),
        pytest.param("## Sites", set(SITE), id="site"),
        pytest.param("### gather", set(Gather.__struct_fields__), id="gather"),
    ],
)
def test_fields_are_the_fields(heading: str, fields: set[str]) -> None:
    """The tables of topology fields name every field, and none that there is not."""
    text = section(DOCS / "topology.md", heading)
    table = re.split(r"^### ", text, maxsplit=1, flags=re.MULTILINE)[0]

    assert set(_FIELD.findall(table)) == fields


@pytest.mark.parametrize(("form", "line"), _FORM.findall((DOCS / "contract.md").read_text()))
def test_task_lines_have_their_form(form: str, line: str) -> None:
    """The example of each of the seven forms is read as what its row says."""
    [read] = parse_sink_tasks(line.encode(), {"calc"}, "sink-tasks.txt")

    assert ("module" in form) == (read.module == "calc")
    assert ("JSON" in form) == read.body.startswith(b"{")
    assert ("headers" in form) == (read.headers == {"zone": "a"})


def test_all_seven_forms_are_there() -> None:
    """The contract has an example of each form."""
    assert len(_FORM.findall((DOCS / "contract.md").read_text())) == 7


def test_every_file_of_the_contract_is_told_of() -> None:
    """The contract's table names every file that is read after a run, old names included."""
    text = section(DOCS / "contract.md", "## What a program leaves")

    assert set(_CODE.findall(text)) & set(READ_FILES) == set(READ_FILES)


def test_variables_are_the_variables() -> None:
    """The contract's table names every environment variable of a run, and none besides."""
    task = Task(message=Message(module="a", id="m", body=b"", from_module="b", from_ip="::1"))
    place = Surroundings(topology="t", node="n", ip="::1", cluster_data_root="/data")
    given = environment(Module(name="a", sinks=("b",)), task, place, "/work")
    told = first_cells(DOCS / "contract.md", "## What a program is given")

    assert {name for name in told if name.isupper()} == set(given)


def test_reasons_are_the_reasons() -> None:
    """The table of burials has every reason, and none that there is not."""
    assert first_cells(DOCS / "failure.md", "## What is buried") == {r.value for r in Reason}


def test_flags_of_the_ceiling_are_flags() -> None:
    """The table of the ceiling names flags that the node has."""
    told = first_cells(DOCS / "security.md", "## The ceiling")
    flags = {flag for option in node.params for flag in option.opts}

    assert {re.split("[ =]", flag)[0] for flag in told} - flags == set()


@pytest.mark.parametrize("page", sorted((DOCS / "adr").glob("0*.md")), ids=name_of)
def test_decisions_have_their_form(page: Path) -> None:
    """A decision opens with its two tables, says context, decision, consequences, and is short."""
    text = page.read_text()
    headings = _HEADING.findall(text)

    assert text.startswith(f"# {page.name[:4]}: ")
    assert all(f"| {row} |" in text for row in ("Status", "Date", "Deciders", "Tags"))
    assert "| Revision | Date | What |" in text
    assert headings[1:] == ["Context", "Decision", "Consequences"]
    assert len(text.splitlines()) <= ADR_LINES


def test_decisions_are_listed() -> None:
    """The list of decisions has every decision under its title."""
    listed = (DOCS / "adr" / "README.md").read_text()
    pages = sorted((DOCS / "adr").glob("0*.md"))
    rows = [
        f"| [{page.name[:4]}]({page.name}) | {page.read_text().splitlines()[0][8:]} |"
        for page in pages
    ]

    assert [row for row in rows if row not in listed] == []


def test_promises_without_a_test_say_so() -> None:
    """Every promise of the README links the file that proves it, or says `not yet`."""
    table = section(ROOT / "README.md", "## Promises")
    rows = [row for row in table.splitlines() if re.match(r"\| [1-9] ", row)]

    assert [int(row[2]) for row in rows] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [row for row in rows if "(tests/" not in row and "not yet" not in row] == []
