"""The command line `sbx-actor`: one file per command, found and imported only when it is typed.

`main` is the one place where an error becomes a sentence and an exit code.
"""

import os
import sys
from collections.abc import Sequence

import click

from scalebox_actors.cli.commands import ReaderLeft, commands
from scalebox_actors.cli.output import STDOUT_CLOSED, say
from scalebox_actors.cli.show import shortened
from scalebox_actors.errors import BadInput, SbxError

PROGRAM = "sbx-actor"
COMPLETION = "_SBX_ACTOR_COMPLETE"
"""Set by a shell's completion script when it asks what may come next."""
FAILED, USAGE, INTERRUPTED, PIPE_CLOSED = 1, 2, 130, 141
SENTENCE = 1000
"""No error takes more characters than this, whatever it quotes."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; nothing but `SystemExit` gets out of here."""
    _occupy_closed_streams()
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _flushed(_invoked(given))
    except (BrokenPipeError, ReaderLeft):
        _forget_stdout()
        return PIPE_CLOSED
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except OSError as error:
        _forget_stdout()
        say(f"{PROGRAM}: {error.filename or 'standard output'}: {error.strerror or error}")
        return FAILED
    except Exception as error:  # noqa: BLE001 - a bug of ours is one sentence, too
        return _bug(error, given)


def _invoked(given: list[str]) -> int:
    if not given and COMPLETION not in os.environ:
        say(commands.get_help(click.Context(commands, info_name=PROGRAM)))
        return USAGE
    try:
        code = commands.main(given, prog_name=PROGRAM, standalone_mode=False)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else PROGRAM
        words = shortened(" ".join(error.format_message().split()).rstrip("."), SENTENCE // 2)
        say(f"{path}: {words} (see `{path} --help`)")
        return USAGE
    except click.ClickException as error:
        say(f"{PROGRAM}: {error.format_message()}")
        return error.exit_code
    except click.Abort:
        say("interrupted")
        return INTERRUPTED
    except BadInput as error:
        for one in error.errors or (error,):
            say(shortened(str(one) if one.path else f"{PROGRAM}: {one}", SENTENCE))
        return error.exit_code
    except SbxError as error:
        say(shortened(f"{PROGRAM}: {error}", SENTENCE))
        return error.exit_code
    except ExceptionGroup as group:
        return _several(group)
    return code if isinstance(code, int) else 0


def _several(group: ExceptionGroup[Exception]) -> int:
    """Tell of the first error of ours in a group; what else is in there is a bug."""
    ours, rest = group.split(SbxError)
    if rest is not None or ours is None:
        raise _first(rest or group)
    error = _first(ours)
    say(f"{PROGRAM}: {error}")
    return error.exit_code if isinstance(error, SbxError) else FAILED


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _flushed(code: int) -> int:
    """Return `code` once what was printed has really gone out."""
    if sys.stdout is not None:
        sys.stdout.flush()
    return code


def _forget_stdout() -> None:
    """Let the interpreter's last flush go nowhere: it would complain again, with a traceback."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, AttributeError, ValueError):
        return
    void = os.open(os.devnull, os.O_WRONLY)
    os.dup2(void, descriptor)
    os.close(void)


def _occupy_closed_streams() -> None:
    """Put something harmless where standard streams were closed.

    Else the next file or socket takes number 2, and what others write to stderr goes into it.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _bug(error: Exception, given: Sequence[str]) -> int:
    if str(error) == STDOUT_CLOSED:
        say(f"{PROGRAM}: {error}")
        return FAILED
    if "--verbose" in given or "-v" in given:
        import traceback  # noqa: PLC0415 - only here, and slow

        say("".join(traceback.format_exception(error)))
    say(f"{PROGRAM}: a fault of the program itself: {type(error).__name__}: {error}")
    return FAILED
