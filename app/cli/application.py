"""The commands together, and how the program ends."""

import io
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from app import __version__
from app.cli import (
    agents,
    approvals,
    chat,
    completions,
    conversations,
    db,
    dev,
    doctor,
    keys,
    run,
    runs,
    serve,
    usage,
    version,
)
from app.cli.failures import FAILED, USAGE
from app.cli.output import notice

PROGRAM = "durable-agents"


def build_application() -> typer.Typer:
    """Return the program with all its commands."""
    app = typer.Typer(
        name=PROGRAM,
        help="Agents of the OpenAI Agents SDK as a service: durable sessions, accounted runs.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for module in (
        dev,
        serve,
        chat,
        run,
        runs,
        approvals,
        agents,
        conversations,
        usage,
        completions,
        keys,
        db,
        doctor,
        version,
    ):
        module.register(app)
    return app


def _root(
    *,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    """Agents of the OpenAI Agents SDK as a service: durable sessions, accounted runs."""
    if show_version:
        sys.stdout.write(f"{PROGRAM} {__version__}\n")
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program and leave with its exit code: 0 done, 1 failed, 2 wrong usage, 3 waiting, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Half an emoji, or a terminal of another encoding, must not end a command.
            stream.reconfigure(errors="replace")
    sys.exit(_exit_code(arguments))


def _exit_code(arguments: Sequence[str] | None) -> int:
    program = typer.main.get_command(build_application())
    try:
        code = program.main(arguments, prog_name=PROGRAM, standalone_mode=False)
    except typer.TyperException as error:
        message = error.format_message()
        if not message:  # no command was named, and the help has been shown
            return error.exit_code
        # Errors of usage, which typer keeps in a private module, know the command they belong to.
        context: typer.Context | None = getattr(error, "ctx", None)
        if context is not None and error.exit_code == USAGE:
            message = f"{message.rstrip('.')}. See '{context.command_path} --help'."
        notice(f"Error: {message}", style="31")
        return error.exit_code
    except typer.Abort:
        notice("Aborted.")
        return FAILED
    return code if isinstance(code, int) else 0
