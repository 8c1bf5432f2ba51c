"""How a command ends when it goes wrong: one line on standard error that says what to do, and an exit code."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import typer

from app.domain.errors import AppError, InvalidInput, StorageUnavailable

FAILED: Final = 1
USAGE: Final = 2
WAITING: Final = 3
"""A run waits for a person's approval."""
INTERRUPTED: Final = 130


class CommandFailed(typer.TyperException):
    """Ends the program with one line and an exit code."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        """`exit_code`: 1 failed, 2 wrong usage."""
        super().__init__(message)
        self.exit_code = exit_code


@contextmanager
def reported(*, debug: bool) -> Generator[None]:
    """Turn errors of the block into `CommandFailed`; with `debug` they go on as they are.

    A wrong value is wrong usage (2), everything else has failed (1). A closed pipe and typer's own go on.
    """
    try:
        yield
    except (typer.TyperException, typer.Exit, typer.Abort, EOFError, BrokenPipeError):
        raise
    except AppError as error:
        if debug:
            raise
        advice = " Check DATABASE_URL, or --database." if isinstance(error, StorageUnavailable) else ""
        code = USAGE if isinstance(error, InvalidInput) else FAILED
        raise CommandFailed(f"{error.public_message}{advice}", code) from error
    except OSError as error:
        if debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        raise CommandFailed(f"{where}{error.strerror or error}.") from error
    except Exception as error:  # the edge of the process: a traceback buries the one thing to do, so it is asked for
        if debug:
            raise
        raise CommandFailed(f"Unexpected {type(error).__name__}. Run it again with --debug to see where.") from error
