"""What commands print: JSON for programs, tables for people, and values as people read them."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, TextIO

UNKNOWN: Final = "–"
"""Stands for a value that is not known, so that nobody reads it as zero."""

# A model, or a tool's web page, may answer with escape sequences that move the cursor or retitle the terminal.
_CONTROLS: Final = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}

_LEAST_SHOWN: Final = Decimal("0.000001")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    title: str
    numbers: bool = False
    """Right-aligned."""


def write(text: str) -> None:
    """Write text to standard output at once; a terminal gets it without control characters."""
    sys.stdout.write(visible(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def print_line(text: str = "") -> None:
    """Write a line to standard output."""
    write(f"{text}\n")


def notice(text: str, *, style: str = "2") -> None:
    """Write a line to standard error, where progress goes; `style` is its SGR code, used on a terminal with colour."""
    shown = visible(text)
    sys.stderr.write(f"\x1b[{style}m{shown}\x1b[0m\n" if has_colour(sys.stderr) else f"{shown}\n")
    sys.stderr.flush()


def begin_line(text: str) -> None:
    """Write the beginning of a line to standard error: a question that waits for its answer."""
    sys.stderr.write(visible(text))
    sys.stderr.flush()


def has_colour(stream: TextIO) -> bool:
    """Tell whether a stream may be coloured: a terminal, and NO_COLOR (no-color.org) is not set."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    print_line(json.dumps(value, indent=2, ensure_ascii=False))


def print_json_line(value: Any) -> None:
    """Print a value as one line of JSON."""
    print_line(json.dumps(value, separators=(",", ":"), ensure_ascii=False))


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]], *, totals: Sequence[str] = ()) -> None:
    """Print a table: fitted to a terminal, or in full and plain where it goes to a file or another program."""
    cells = [[one_line(cell) for cell in row] for row in ([*rows, totals] if totals else rows)]
    if sys.stdout.isatty():
        _print_fitted(columns, cells, has_totals=bool(totals))
        return
    lines = [[column.title for column in columns], *cells]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        padded = (
            cell.rjust(width) if column.numbers else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        )
        print_line("  ".join(padded).rstrip())


def _print_fitted(columns: Sequence[Column], cells: Sequence[Sequence[str]], *, has_totals: bool) -> None:
    from rich.console import Console  # noqa: PLC0415 - only a terminal needs it
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.title, justify="right" if column.numbers else "left", overflow="fold")
    for index, row in enumerate(cells):
        is_total = has_totals and index == len(cells) - 1
        # Text, not str: a title may hold what Rich takes for markup.
        table.add_row(*(Text(cell) for cell in row), style="bold" if is_total else "")
    Console().print(table)


def visible(text: str) -> str:
    """Return text without control characters, newline and tab apart."""
    return text.translate(_CONTROLS)


def one_line(text: str, max_chars: int | None = None) -> str:
    """Return text as one line, shortened to `max_chars` with an ellipsis."""
    line = visible(" ".join(text.split()))
    return line if max_chars is None or len(line) <= max_chars else f"{line[: max_chars - 1]}…"


def dollars(cost: Decimal | None) -> str:
    """Return a cost for people; an unknown one is no number."""
    if cost is None:
        return UNKNOWN
    if 0 < cost < _LEAST_SHOWN:
        return f"<${_LEAST_SHOWN}"
    return f"${cost:,.2f}" if cost >= 1 else f"${cost:.6f}".rstrip("0").ljust(5, "0")


def decimal_text(cost: Decimal | None) -> str | None:
    """Return a cost for programs: an exact decimal without an exponent, or None."""
    return None if cost is None else f"{cost.normalize():f}"


def moment(time: datetime | None) -> str:
    """Return a time of day in UTC for people."""
    return UNKNOWN if time is None else f"{time.astimezone(UTC):%Y-%m-%d %H:%M}"


def age(since: datetime, now: datetime) -> str:
    """Return how long ago something was, in the largest unit that fits."""
    passed_s = max(0, int((now - since).total_seconds()))
    for unit, unit_s in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if passed_s >= unit_s:
            return f"{passed_s // unit_s}{unit}"
    return f"{passed_s}s"


def seconds(duration_ms: int) -> str:
    """Return a duration for people."""
    return f"{duration_ms} ms" if duration_ms < 1_000 else f"{duration_ms / 1_000:.1f} s"
