"""The command line: `durable-agents`, or `python -m app`. One command a file; standard output is data."""

from app.cli.application import main

__all__ = ["main"]
