"""How a command ends in an error: one message with its code on stderr, JSON on stdout under --json, an exit code."""

from __future__ import annotations

import json
import traceback
from types import TracebackType
from typing import Any

import typer

from evolve.commands.codes import DEFECT, USAGE, Code, as_data, code_of

_UsageError: Any = typer.BadParameter.__mro__[1]
"""typer brings a click of its own, whose names are private; what it exports descends from them."""


class Reported:
    """A foreseeable error of its block becomes a message and the exit code of its kind; a defect keeps its traceback.

    Under --json the same error is one JSON object on stdout as well, so that a program reads what a person reads.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def __enter__(self) -> Reported:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Whoever read the output may have gone (`| head`): typer ends quietly then.
        if error is None or isinstance(error, SystemExit | BrokenPipeError):
            return
        code = code_of(error)
        if code is None:
            traceback.print_exception(error)
            code, message = DEFECT, f"{type(error).__name__}: {error}"
        elif isinstance(error, KeyboardInterrupt):
            message = "interrupted; the same command continues here"
        else:
            message = str(error) or type(error).__name__
        tell(code, message, as_json=self._as_json)
        raise SystemExit(code.exit)


def run_app(app: typer.Typer, arguments: list[str]) -> None:
    """Run the command line; a wrong one is told once and gets its code, neither of which typer alone would do.

    Raises SystemExit, always.
    """
    try:
        status = app(arguments, standalone_mode=False)
    except _UsageError as wrong:
        # Help that is shown for want of arguments is a usage error of click's too, but not one of the user's.
        if type(wrong).__name__ == "NoArgsIsHelpError":
            wrong.show()
        else:
            _tell_usage(wrong, as_json="--json" in arguments)
        raise SystemExit(wrong.exit_code) from None
    except typer.Abort:
        typer.echo("Aborted.", err=True)
        raise SystemExit(1) from None
    raise SystemExit(status)


def _tell_usage(wrong: Any, *, as_json: bool) -> None:
    """The usage of the command that was meant, then what is wrong, with the nearest command or option."""
    if wrong.ctx is not None:
        typer.echo(f"{wrong.ctx.get_usage()}\nTry '{wrong.ctx.command_path} --help' for help.", err=True)
    tell(USAGE, wrong.format_message(), as_json=as_json)


def tell(code: Code, message: str, *, as_json: bool) -> None:
    """The message on stderr, and as JSON on stdout under --json."""
    colour = "yellow" if code.exit == 130 else "red"
    typer.secho(f"error {code.name}: {_visible(message)}", fg=colour, err=True)
    if as_json:
        print(json.dumps(as_data(code, message), ensure_ascii=False, indent=2))


def _visible(text: str) -> str:
    """Messages quote what they were given; none of it may drive a terminal."""
    return "".join(character if character.isprintable() or character == "\n" else "·" for character in text)
