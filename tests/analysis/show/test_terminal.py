"""Tables in the terminal."""

from __future__ import annotations

import contextlib
import io
import re

import pandas as pd
import pytest

from analysis.show import terminal
from analysis.show.terminal import as_text, facts, models, table, words


class Tty(io.StringIO):
    """A terminal that remembers what it was sent."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def tty(monkeypatch) -> Tty:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Tty()


def test_words_stand_on_the_left_and_numbers_on_the_right():
    rows = [["t1", "5", "l1", "97.9-99.8"], ["t22222@3", "10", "-", "-"]]
    assert as_text(table(["model", "n", "criterion", "interval"], rows)) == (
        "model      n  criterion   interval\n"
        "--------- --- ---------- ---------\n"
        "t1         5  l1         97.9-99.8\n"
        "t22222@3  10  -                  -"
    )


@pytest.mark.parametrize(
    "cell", ["1.23 M", "+0.50", "-3", "1e-05", "10 to 90 %", "7/20", "12 min", "1,234.5", "3x"]
)
def test_a_number_with_its_unit_is_a_number(cell):
    lines = as_text(table(["a heading, wide", "x"], [[cell, "y"]])).splitlines()
    assert lines[2] == f"{cell:>15}  y"


@pytest.mark.parametrize("cell", ["t0007@3", "3-2-1-x", "no evidence", "2024-05-01", "-"])
def test_what_is_no_number_is_a_word(cell):
    lines = as_text(table(["a heading, wide", "x"], [[cell, "y"]])).splitlines()
    assert lines[2] == f"{cell:<15}  y"


def test_brackets_and_control_characters_are_shown_and_mean_nothing():
    cells = ["[bold]x[/bold]", "[/]", ":smile:", "\x1b[31mred", "a\tb"]
    drawn = table(["[red]heading", *"bcde"], [cells], title="[b]title")
    for said in (as_text(drawn), as_text(facts([("[i]label", " ".join(cells))]))):
        for cell in ("[bold]x[/bold]", "[/]", ":smile:", "\\x1b[31mred", "a\\tb"):
            assert cell in said
        assert "\x1b" not in said
    assert "[red]heading" in as_text(drawn)
    assert "[b]title" in as_text(drawn)


def test_piped_output_is_as_wide_as_it_needs_to_be_and_has_no_codes(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    long = "word " * 60
    terminal.show(table(["name", "words"], [["t0001", long]]))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[2] == f"t0001  {long}".rstrip()
    assert "\x1b" not in "".join(lines)


def test_on_a_narrow_terminal_words_run_over_lines_and_nothing_is_lost(tty):
    rows = [["t0001", "97.25", "abcdefghij" * 10]]
    with contextlib.redirect_stdout(tty):
        terminal.show(table(["model", "val acc %", "what"], rows))
    shown = tty.getvalue()
    assert "\x1b[1m" in shown, "the header is bold"
    lines = re.sub(r"\x1b\[\d*m", "", shown).splitlines()
    assert max(map(len, lines)) <= 60
    assert "".join(line[18:].strip() for line in lines[2:]) == "abcdefghij" * 10
    assert "…" not in shown


def test_a_terminal_too_narrow_for_the_numbers_gets_them_whole(tty, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    with contextlib.redirect_stdout(tty):
        terminal.show(table([f"c{n}" for n in range(10)], [[f"{n}.12345" for n in range(10)]]))
    shown = tty.getvalue()
    assert all(f"{n}.12345" in shown for n in range(10))


def test_the_word_of_colour_is_no(tty, monkeypatch):
    with contextlib.redirect_stdout(tty):
        terminal.show(words("failed", "red"))
        coloured = tty.getvalue()
        monkeypatch.setenv("NO_COLOR", "1")
        terminal.show(words("failed", "red"))
    assert "\x1b[3" in coloured
    assert tty.getvalue() == f"{coloured}failed\n"


def test_a_table_of_models_leaves_out_what_none_has_and_tells_equal_names_apart():
    df = pd.DataFrame(
        [{"model": "t0001", "val_accuracy": 90.0, "latency_ms": None, "train.seed": 1, "data.seed": 0.25}]
    )
    lines = as_text(models(df, ["train.seed", "data.seed"], {0: "chosen"})).splitlines()
    assert lines[0].split() == ["trial", "val", "acc", "%", "train.seed", "data.seed"]
    assert lines[2].split() == ["t0001", "90.00", "1", "0.25", "chosen"]


def test_facts_stand_below_each_other():
    assert as_text(facts([("folder", "x"), ("trials", 4), ("", "more")])) == (
        "  folder  x\n  trials  4\n          more"
    )
