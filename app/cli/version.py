"""`durable-agents version`."""

import sys

import typer

from app import __version__
from app.cli.options import command


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "version")(version)


def version() -> None:
    """Print the version."""
    sys.stdout.write(f"durable-agents {__version__}\n")
