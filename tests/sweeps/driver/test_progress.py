from __future__ import annotations

from analysis.show.terminal import as_text
from gcp_core.config import TrialConfig
from sweeps.driver.progress import LineProgress, LiveProgress, duration, front_text, result_line
from sweeps.records.job import Job, Outcome

POINT = {"prune.interval": 2, "prune.ratio": 0.30000000000000004}
JOB = Job("t0006", "trial", 6, TrialConfig(), POINT, "/nowhere")
BASELINE = Job("b0000", "baseline", 0, TrialConfig().baseline(), {}, "/nowhere")
FINALS = {"val_accuracy": 97.256, "macs_removed": 0.612}


def test_a_line_holds_counter_id_values_accuracy_cost_and_seconds() -> None:
    assert result_line(JOB, Outcome("complete", FINALS, seconds=1.44), 7, 24) == (
        "[ 7/24] t0006 complete   interval=2 ratio=0.3: val accuracy 97.26 %, MACs removed 61.2 %, 1.4 s"
    )


def test_a_failed_trial_shows_its_error() -> None:
    line = result_line(JOB, Outcome("failed", error="ValueError: no", seconds=0.2), 8, 24)
    assert line == "[ 8/24] t0006 failed     interval=2 ratio=0.3: 0.2 s, ValueError: no"


def test_a_baseline_has_no_removed_share() -> None:
    line = result_line(BASELINE, Outcome("complete", FINALS, seconds=2.0), 0, 24)
    assert line == "[ 0/24] b0000 complete   unpruned: val accuracy 97.26 %, 2.0 s"


def test_lines_come_for_finished_trials_and_notes_only() -> None:
    lines: list[str] = []
    with LineProgress(lines.append) as progress:
        progress.started(JOB)
        progress.epoch(JOB, {"epoch": 1.0})
        progress.finished(JOB, Outcome("complete", FINALS), 1, 2)
        progress.note("stopping")
    assert [line[:12] for line in lines] == ["[1/2] t0006 ", "stopping"]


def test_the_live_table_keeps_the_lines_and_forgets_finished_trials(capsys) -> None:
    with LiveProgress() as progress:
        progress.started(JOB)
        progress.epoch(JOB, {"epoch": 3, "val/accuracy": 91.0, "cost/macs": 5e5})
        assert progress._table().row_count == 1
        progress.finished(JOB, Outcome("complete", FINALS), 1, 2)
        assert progress._table().row_count == 0
    assert "[1/2] t0006 complete" in capsys.readouterr().out


def test_the_live_table_forgets_a_path_that_rests_until_it_goes_on(capsys) -> None:
    with LiveProgress() as progress:
        progress.started(JOB)
        progress.rested(JOB)
        assert progress._table().row_count == 0
        progress.started(JOB)
        assert progress._table().row_count == 1


def test_hypervolume_and_time_left_stand_behind_the_result_as_far_as_they_are_known() -> None:
    lines: list[str] = []
    progress = LineProgress(lines.append)
    for known in ((None, None), (0.61234, None), (0.61234, 200.0)):
        progress.front(*known)
        progress.finished(JOB, Outcome("complete", FINALS, seconds=1.44), 7, 24)
    assert [line.partition("1.4 s")[2] for line in lines] == [
        "",
        " (hypervolume 0.6123)",
        " (hypervolume 0.6123, about 3 min left)",
    ]
    assert front_text(0.5, 0.0) == "hypervolume 0.5000"
    assert front_text(0.5, 60.0, "t0003@0") == (
        "hypervolume 0.5000 against t0003@0 until a baseline ends, about 1 min left"
    )
    assert front_text(None, 0.0, "t0003@0") == ""


def test_the_live_tables_title_says_how_far_the_sweep_is(capsys) -> None:
    live = LiveProgress()
    live.front(0.5, 30.0)
    live.finished(JOB, Outcome("complete", FINALS), 1, 2)
    assert str(live._table().title) == "1 of 2 trials done, hypervolume 0.5000, about 30 s left"


def test_durations_are_short() -> None:
    assert [duration(s) for s in (0.4, 59, 61, 3599, 7500)] == [
        "0 s",
        "59 s",
        "1 min",
        "1 h 00 min",
        "2 h 05 min",
    ]


def test_brackets_in_a_value_are_no_markup_in_the_live_table(capsys) -> None:
    named = Job("t0006", "trial", 6, TrialConfig(), {"model.name": "[bold red]vgg[/]"}, "/nowhere")
    with LiveProgress() as progress:
        progress.started(named)
        assert "name=[bold red]vgg[/]" in as_text(progress._table())
        progress.finished(named, Outcome("failed", error="no [link=x]y[/link]"), 1, 2)
    assert "name=[bold red]vgg[/]: no [link=x]y[/link]" in capsys.readouterr().out
