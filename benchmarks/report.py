"""Tables on a terminal."""

from collections.abc import Sequence


def print_table(title: str, notes: Sequence[str], header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table: text to the left, figures to the right."""
    texts = [[_text(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(header, *texts, strict=True)]
    is_text = [any(isinstance(row[index], str) for row in rows) for index in range(len(header))]
    print(f"\n{title}")
    for note in notes:
        print(f"  {note}")
    for line in (list(header), ["-" * width for width in widths], *texts):
        cells = [
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(line, widths, is_text, strict=True)
        ]
        print("  " + "  ".join(cells).rstrip(), flush=True)


def _text(cell: object) -> str:
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:.0f}" if cell >= 100 else f"{cell:.1f}" if cell >= 10 else f"{cell:.2f}"
