from __future__ import annotations

import math
from pathlib import Path

from sweeps.records import spool


def test_rows_come_back_by_epoch_and_an_epoch_trained_twice_counts_once(tmp_path: Path) -> None:
    for epoch, at in [(1, 10), (2, 20), (2, 30), (3, 40)]:
        spool.append(tmp_path, {"epoch": epoch, spool.AT: at})
    assert [(row["epoch"], row["at"]) for row in spool.rows(tmp_path)] == [(1, 10), (2, 20), (3, 40)]


def test_a_line_that_a_killed_process_left_half_written_costs_that_line_only(tmp_path: Path) -> None:
    spool.append(tmp_path, {"epoch": 1})
    with (tmp_path / spool.SPOOL).open("ab") as file:
        file.write(b'{"epoch": 2, "val/lo')
    assert [row["epoch"] for row in spool.rows(tmp_path)] == [1]
    spool.append(tmp_path, {"epoch": 2})
    assert [row["epoch"] for row in spool.rows(tmp_path)] == [1, 2]


def test_a_trial_that_reported_nothing_has_no_rows(tmp_path: Path) -> None:
    assert spool.rows(tmp_path) == ()


def test_a_loss_that_is_not_finite_survives(tmp_path: Path) -> None:
    spool.append(tmp_path, {"epoch": 1, "train/loss": math.inf, "val/loss": math.nan})
    (row,) = spool.rows(tmp_path)
    assert row["train/loss"] == math.inf
    assert math.isnan(row["val/loss"])


def test_a_history_gets_the_times_that_are_known() -> None:
    history = ({"epoch": 1}, {"epoch": 2})
    assert spool.with_times(history, ({"epoch": 2, "at": 7},)) == ({"epoch": 1}, {"epoch": 2, "at": 7})
