"""The corpus of command lines: whatever is typed, one sentence, the documented code, no traceback.

In one process; what needs real file descriptors or a server is in tests/integration.
"""

import errno
import re
from pathlib import Path

import msgspec
import pytest

from scalebox_actors.cli import main
from scalebox_actors.cli.commands import COMMANDS

GOOD = "topology: tiny\nmodules:\n  a: {image: x/y, command: [echo]}\n"
GREEDY = 'topology: tiny\nmodules:\n  a: {image: x/y, mounts: ["data:.:/d:rw"], command: [echo]}\n'
LEAVES = [name for name in COMMANDS if name not in ("dead", "image")]
WITH_TOPOLOGY = [name for name in LEAVES if name not in ("schema", "completion", "doctor")]
GROUPS = [
    *(f"dead {name}" for name in ("list", "show", "retry", "drop")),
    *(f"image {name}" for name in ("import", "list", "remove")),
]

# Command, exit code, a word of the sentence on stderr. {good}, {dir}, … are files of the fixture.
BAD = [
    ("", 2, "Usage"),
    ("frobnicate", 2, "no command"),
    ("chek", 2, "did you mean `check`"),
    ("--frobnicate", 2, "--frobnicate"),
    ("check", 2, "TOPOLOGY"),
    ("plan", 2, "TOPOLOGY"),
    ("run", 2, "TOPOLOGY"),
    ("node", 2, "TOPOLOGY"),
    ("send", 2, "TOPOLOGY"),
    ("send {good}", 2, "MODULE"),
    ("send {good} a", 2, "either BODY"),
    ("send {good} a b --file {good}", 2, "either BODY"),
    ("send {good} a b c", 2, "unexpected extra argument"),
    ("results", 2, "TOPOLOGY"),
    ("trace", 2, "TOPOLOGY"),
    ("logs", 2, "TOPOLOGY"),
    ("logs tiny", 2, "ID"),
    ("cancel", 2, "TOPOLOGY"),
    ("cancel tiny", 2, "--module"),
    ("pause", 2, "TOPOLOGY"),
    ("resume", 2, "TOPOLOGY"),
    ("drain", 2, "TOPOLOGY"),
    ("dead frobnicate", 2, "frobnicate"),
    ("dead show tiny", 2, "ID"),
    ("dead retry tiny", 2, "--all"),
    ("dead drop tiny", 2, "--all"),
    ("dead drop tiny x --all", 2, "--all"),
    ("dead list tiny --reason odd", 2, "odd"),
    ("image frobnicate", 2, "frobnicate"),
    ("image import", 2, "FILE|DIR"),
    ("image import {good}", 2, "NAME"),
    ("image import {missing} a/b", 65, "no such file"),
    ("image remove", 2, "NAME"),
    ("completion", 2, "SHELL"),
    ("completion tcsh", 2, "tcsh"),
    ("run {good} --send a", 2, "--send"),
    ("run {good} --runtime podman", 2, "podman"),
    ("run {good} --max-cpus 0", 2, "--max-cpus"),
    ("run {good} --max-cpus many", 2, "many"),
    ("node {good} --max-slots -1", 2, "--max-slots"),
    ("plan {good} --rate nan,", 2, "--rate"),
    ("run {good} --seccomp off", 2, "--seccomp"),
    ("run {good} --cpus 0", 2, "--cpus"),
    ("check {good} --memory much", 65, "--memory"),
    ("plan {good} --gpus a", 65, "--gpus"),
    ("node {good} --gpus 3-1", 65, "--gpus"),
    ("node {good} --gpu-devices /etc/x", 65, "--gpu-devices"),
    ("doctor --runtime podman", 2, "podman"),
    ("doctor tiny", 2, "unexpected extra argument"),
    *((f"{name} {{missing}}", 65, "No such file") for name in ("check", "plan", "run", "node")),
    *((f"{name} {{dir}}", 65, "Is a directory") for name in ("check", "plan", "run", "node")),
    *((f"{name} {{empty}}", 65, "nothing in") for name in ("check", "plan", "run", "node")),
    *((f"{name} {{binary}}", 65, "binary.yaml:1:") for name in ("check", "plan", "run", "node")),
    *((f"{name} {{wrong}}", 65, "wrong.yaml:3:") for name in ("check", "plan", "run", "node")),
    ("send {missing} a b", 65, "No such file"),
    ("send {dir} a b", 65, "Is a directory"),
    ("status {missing}", 65, "No such file"),
    ("results {dir}", 65, "Is a directory"),
    ("trace {binary}", 65, "binary.yaml:1:"),
    ("drain {wrong}", 65, "wrong.yaml:3:"),
    ("dead list {missing}", 65, "No such file"),
    ("send {good} b x", 65, "no module `b`"),
    ("send {good} aa x", 65, "did you mean `a`"),
    ("send {good} a x --header k", 65, "--header"),
    ("send {good} a x --header k=1 --header k=2", 65, "twice"),
    ("send {good} a x --header Nats-TTL=1s", 65, "system"),
    ("send {good} a x --id a.b", 65, "--id"),
    ("send {good} a x --id _a", 65, "--id"),
    ("send {good} a x --id {long}", 65, "--id"),
    ("run {good} --send b x", 65, "no module `b`"),
    ("run {good} --set K", 65, "--set"),
    ("run {good} --env-file {missing}", 65, "No such file"),
    ("check {good} --env-file {dir}", 65, "Is a directory"),
    ("check {good} --env-file {binary}", 65, "binary.yaml"),
    ("run {good} --mount-root data", 65, "--mount-root"),
    ("run {good} --mount-root data=rel", 65, "--mount-root"),
    ("run {good} --mount-root data=/etc", 65, "never mounted"),
    ("run {good} --mount-root data={missing}", 65, "no such directory"),
    ("run {good} --mount-root d=/tmp --mount-root d=/tmp", 65, "twice"),
    ("run {good} --max-memory lots", 65, "--max-memory"),
    ("run {good} --unlimited --max-memory 1GiB", 65, "--unlimited"),
    ("node {good} --name Not.A.Name", 65, "not a name"),
    ("trace tiny --since soon", 65, "soon"),
    ("pause tiny --for -1s", 65, "-1s"),
    ("drain tiny N!", 65, "N!"),
    ("run {greedy}", 77, "mount root"),
    ("node {greedy}", 77, "mount root"),
    ("run {good} --allow-image sbx/", 77, "image"),
    ("node {good} --require-memory", 77, "memory"),
    *((f"{name} tiny", 69, "nothing has run") for name in ("status", "results", "trace", "drain")),
    ("send tiny a b", 69, "nothing has run"),
    ("node tiny", 69, "nothing has run"),
    ("logs tiny x", 69, "nothing has run"),
    ("cancel tiny x", 69, "nothing has run"),
    ("pause tiny", 69, "nothing has run"),
    ("dead list tiny", 69, "nothing has run"),
    ("status", 1, "no topology"),
    ("status tiny --nats nats://127.0.0.1:1 --creds {missing}", 65, "credentials"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Make the files that the corpus names, and a state directory with nothing in it."""
    for name in ("SBX_NATS", "SBX_STORE", "SBX_RUNTIME", "SBX_WORK", "SBX_CREDS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    contents = {
        "good": GOOD.encode(),
        "greedy": GREEDY.encode(),
        "wrong": GOOD.replace("command", "comand").encode(),
        "empty": b"",
        "binary": b"\x00\xff\xfe",
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.yaml").write_bytes(content)
    paths = {name: str(tmp_path / f"{name}.yaml") for name in (*contents, "missing")}
    return paths | {"dir": str(tmp_path), "long": "x" * 129}


@pytest.mark.parametrize(("line", "code", "word"), BAD, ids=[line for line, _, _ in BAD])
def test_a_bad_command_line_gets_a_sentence_and_its_code(
    line: str, code: int, word: str, files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be done is said in few words on stderr, with the documented exit code."""
    actual = main(line.format(**files).split())
    told = capsys.readouterr()

    assert (code, "") == (actual, told.out)
    assert word in told.err
    assert "Traceback" not in told.err
    assert len(told.err.splitlines()) == 1 or word == "Usage"


@pytest.mark.parametrize("name", [*LEAVES, *GROUPS])
def test_an_unknown_flag_is_a_usage_error(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """No command takes a flag that it does not know."""
    actual = main([*name.split(), "--frobnicate"])
    told = capsys.readouterr()

    assert actual == 2
    assert "--frobnicate" in told.err
    assert "Traceback" not in told.err


@pytest.mark.parametrize("name", [*LEAVES, *GROUPS])
def test_every_command_explains_itself_with_an_example(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--help` ends with 0, shows an example that can be copied, and `--json` is always there."""
    actual = main([*name.split(), "--help"])
    told = capsys.readouterr().out

    assert actual == 0
    assert re.search(rf"sbx-actor {name}\b", told.partition("Usage:")[2].partition("\n")[2])
    assert "--json" in told


def test_the_table_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    """The help of the program lists every command."""
    main(["--help"])
    told = capsys.readouterr().out

    assert [name for name in COMMANDS if f"  {name} " not in told] == []


def test_the_program_tells_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    """Installed or run from its sources, `--version` answers."""
    actual = main(["--version"])

    assert (actual, capsys.readouterr().out[:10]) == (0, "sbx-actor ")


def test_an_argument_of_a_mebibyte_is_refused_with_a_short_sentence(
    files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A very long argument is not repeated at length."""
    for line in (["check", "x" * 2**20], ["x" * 2**20], ["send", files["good"], "m" * 2**20, "b"]):
        actual = main(line)
        told = capsys.readouterr()

        assert actual in (2, 65)
        assert "Traceback" not in told.err
        assert len(told.err) < 2000


def test_a_stranger_cannot_move_the_cursor(
    files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """What was typed comes back in a message without its control characters."""
    main(["send", files["good"], "\x1b[31mred\rb\u202e\n", "x"])
    told = capsys.readouterr().err

    assert told.rstrip("\n").isprintable()


def test_check_says_all_that_is_wrong_as_json(
    files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """With `--json` a program reads the place of each error."""
    actual = main(["check", files["wrong"], "--json"])
    told = capsys.readouterr().out

    assert actual == 65
    assert '"line":3' in told


def test_check_takes_several_files_and_ends_as_the_worst_of_them(
    files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each file is told of, whatever is wrong with others; a broken `--set` is said once."""
    actual = main(["check", files["wrong"], files["good"], files["empty"]])
    told = capsys.readouterr()
    records = main(["check", files["wrong"], files["good"], "--json"])
    oks = [msgspec.json.decode(one)["ok"] for one in capsys.readouterr().out.splitlines()]
    fine = main(["check", files["good"], files["good"]])
    capsys.readouterr()
    unset = main(["check", files["good"], files["good"], "--set", "x"])

    assert (actual, records, fine, unset) == (65, 65, 0, 65)
    errors = [one for one in told.err.splitlines() if "warning: " not in one]
    assert [Path(one.partition(":")[0]).stem for one in errors] == ["wrong", "empty"]
    assert told.out == f"{files['good']}: tiny is valid, 1 module\n"
    assert oks == [False, True]
    assert capsys.readouterr().err.count("\n") == 1


def test_completion_offers_commands_and_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The script asks the program, which answers with what begins like the last word."""
    monkeypatch.setenv("_SBX_ACTOR_COMPLETE", "bash_complete")
    for words, expected in (("sbx-actor sta", "plain,status"), ("sbx-actor run --ru", "--runtime")):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
        with pytest.raises(SystemExit):
            main([])

        assert expected in capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_program(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each shell gets a script that asks the program what may come next."""
    actual = main(["completion", shell])

    assert actual == 0
    assert "_SBX_ACTOR_COMPLETE" in capsys.readouterr().out


LARGE = "topology: t\nmodules:\n  a: {image: 'x/y:1', command: [e], limits: {cpus: 2, gpus: 1}}\n"


def test_check_and_plan_warn_of_what_never_fits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For a node of the size that was given: `check` only then, `plan` also for this host."""
    file = tmp_path / "large.yaml"
    file.write_text(LARGE)
    size = ["--cpus", "4", "--memory", "1GiB", "--gpus", "none"]
    unasked = main(["check", str(file), "--strict"])
    silent = capsys.readouterr().err
    actual = [main(["check", str(file), *size]), main(["check", str(file), *size, "--strict"])]
    checked = capsys.readouterr().err
    planned = main(["plan", str(file), *size, "--runtime", "process"])
    told = capsys.readouterr()
    fits = main(["plan", str(file), "--cpus", "4", "--gpus", "0-3", "--runtime", "process"])

    assert (unasked, silent, actual, planned, fits) == (0, "", [0, 65], 0, 0)
    assert "module a: needs 1, but a node may use 0 GPUs here (--gpus)" in checked
    assert "needs 1, but a node may use 0 GPUs" in told.err
    assert "2 cpus, 1 gpus" in told.out
    assert "needs" not in capsys.readouterr().err


def test_doctor_of_plain_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever wants no engine is not told that there is none; the record has it all."""
    actual = main(["doctor", "--runtime", "process", "--work", str(tmp_path), "--json"])
    told = msgspec.json.decode(capsys.readouterr().out)

    assert (actual, told["usable"], told["facts"]["runtime"]) == (0, True, "process")
    assert {"level", "topic", "found", "advice", "gain"} == set(told["advice"][0])


def test_doctor_without_an_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No node could work: exit code 69, and what is said first is what to install."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nothing.sock")
    actual = main(["doctor", "--store", str(tmp_path)])
    told = capsys.readouterr()

    assert actual == 69
    assert "docker.io and crun" in told.out.partition("should")[0]
    assert "1 thing to be mended" in told.err


def test_plan_makes_nothing(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A plan names the stream and consumers, and leaves no trace of itself."""
    actual = main(["plan", files["good"], "--runtime", "process", "--rate", "100"])
    told = capsys.readouterr().out

    assert actual == 0
    assert "SBX_tiny_AT_local" in told
    assert "1.9GiB" in told
    assert not (tmp_path / "state").exists()


MODES = """topology: modes
sites: {a: {hub: true}, b: {link: {rate: 5}, priorities: {hot: 3}}}
modules:
  hot: {image: x, command: [p], warm: 3, sites: [a, b], overflow: {pending: 7}}
  many: {image: x, command: [p], launch: slot, batch: {size: 9, atomic: true}, site: a}
  some: {image: x, command: [p], launch: slot, batch: {size: 4}, site: a}
  stays: {image: x, command: [p], launch: resident, site: a}
"""


def test_plan_shows_how_modules_are_launched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Launch mode, warm containers and batches, as text and in the record, with links' limits."""
    file = tmp_path / "modes.yaml"
    file.write_text(MODES)
    assert main(["plan", str(file), "--runtime", "process"]) == 0
    text = capsys.readouterr().out
    assert main(["plan", str(file), "--runtime", "process", "--json"]) == 0
    told = msgspec.json.decode(capsys.readouterr().out)
    hot, many = told["modules"][:2]

    for words in ("fresh, 3 warm", "slot, atomic batches of 9", "slot, batches of 4", "resident"):
        assert f"  {words}  " in text
    assert (hot["launch"], hot["warm"], hot["batch"]) == ("fresh", 3, None)
    assert (hot["route"], hot["overflow"]) == ("local-first", {"pending": 7})
    assert (many["launch"], many["batch"]) == ("slot", {"size": 9, "atomic": True})
    assert told["sites"][1]["link"]["rate"] == 5
    assert told["sites"][1]["priorities"] == {"hot": 3}


@pytest.mark.parametrize("typed", ["schema", "--help", "--version", "check --help"])
def test_a_reader_that_leaves_in_the_middle_of_a_write(
    typed: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system says so to whoever writes; click would end with exit code 1."""

    def torn(*_: object, **__: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("scalebox_actors.cli.schema.lines", torn)
    monkeypatch.setattr("click.core.echo", torn)
    monkeypatch.setattr("click.decorators.echo", torn)
    monkeypatch.setattr("click.echo", torn)

    assert main(typed.split()) == 141
    assert capsys.readouterr().err == ""
