from datetime import datetime, timedelta, timezone
from decimal import Decimal

import pytest

from app.cli.output import (
    UNKNOWN,
    Column,
    age,
    decimal_text,
    dollars,
    has_colour,
    moment,
    notice,
    one_line,
    print_table,
    seconds,
    visible,
    write,
)


@pytest.mark.parametrize(
    ("cost", "shown"),
    [
        (None, UNKNOWN),
        ("0", "$0.00"),
        ("0.00000004", "<$0.000001"),
        ("0.000123", "$0.000123"),
        ("0.1", "$0.10"),
        ("1234.567", "$1,234.57"),
    ],
)
def test_a_cost_for_people_is_never_zero_unless_it_is(cost: str | None, shown: str) -> None:
    assert dollars(None if cost is None else Decimal(cost)) == shown


@pytest.mark.parametrize(
    ("cost", "text"), [(None, None), ("0E-7", "0"), ("1E+2", "100"), ("0.00000004", "0.00000004"), ("1.50", "1.5")]
)
def test_a_cost_for_programs_is_exact(cost: str | None, text: str | None) -> None:
    assert decimal_text(None if cost is None else Decimal(cost)) == text


def test_values_for_people() -> None:
    assert (seconds(0), seconds(999), seconds(1_000), seconds(61_250)) == ("0 ms", "999 ms", "1.0 s", "61.2 s")
    assert moment(None) == UNKNOWN
    assert moment(datetime(2026, 1, 31, 1, 30, tzinfo=timezone(timedelta(hours=2)))) == "2026-01-30 23:30"
    assert one_line("two\n  lines\there") == "two lines here"
    assert one_line("abcdef", 4) == "abc…"


def test_escape_sequences_do_not_reach_a_terminal() -> None:
    assert visible("a\x1b]0;owned\x07b\x9b31mc\r\nd\te") == "a]0;ownedb31mc\nd\te"


def test_a_pipe_gets_text_as_it_is_and_no_colour(capsys: pytest.CaptureFixture[str]) -> None:
    write("\x1b[31mred")
    notice("\x1b[31mtold", style="31")
    assert capsys.readouterr() == ("\x1b[31mred", "[31mtold\n")


class Screen:
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
)
def test_colour_is_for_terminals_that_want_it(
    environment: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert bool(has_colour(Screen())) is coloured


def test_a_piped_table_is_whole_and_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    columns = (Column("NAME"), Column("N", numbers=True), Column("TEXT"))
    print_table(columns, [("a", "1", "x" * 200), ("long name", "1,000", "two\nlines")], totals=("total", "1,001", ""))
    assert capsys.readouterr().out.splitlines() == [
        "NAME           N  TEXT",
        f"a              1  {'x' * 200}",
        "long name  1,000  two lines",
        "total      1,001",
    ]


def test_an_empty_table_is_its_head(capsys: pytest.CaptureFixture[str]) -> None:
    print_table((Column("A"), Column("B")), [])
    assert capsys.readouterr().out == "A  B\n"


@pytest.mark.parametrize(
    ("passed_s", "shown"), [(0, "0s"), (59, "59s"), (60, "1m"), (7_199, "1h"), (86_400 * 3, "3d"), (-5, "0s")]
)
def test_an_age_in_its_largest_unit(passed_s: int, shown: str) -> None:
    now = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)  # noqa: UP017
    assert age(now - timedelta(seconds=passed_s), now) == shown
