"""What the benchmarks read from a trial's folder, on folders that today's code has left."""

from __future__ import annotations

from pathlib import Path

from benchmarks import trial_logs
from sweeps.config.sweep_config import load_config
from sweeps.worker.trial import DEFAULT_RUNNER
from tests.sweeps.inline import drive, new_conductor

SMALL = {
    "name": "small",
    "data": {"name": "digits", "train_images": 96, "val_share": 0.25},
    "model": {"name": "vgg_tiny", "width": 0.125},
}
PATHS = {
    "train": {"schedule": "cycles", "batch_size": 32},
    "prune": {
        "start": 2,
        "interval": {"choice": [1, 2]},
        "levels": [0.3, 0.5],
        "min_channels": 1,
        "min_share": 0.03,
    },
    "baseline": {"epochs": 3},
}
SINGLE = {
    "train": {"epochs": 3, "batch_size": 32},
    "prune": {"criterion": "l1", "interval": {"choice": [1, 2]}, "ratio": 0.3, "target": 0.3},
}


def logs_of(storage: Path, part: dict) -> dict[str, trial_logs.TrialLog]:
    """Name of every trial of a sweep that is really trained here -> its log."""
    checked = load_config(
        {**SMALL, **part, "search": {"sampler": "grid", "trials": None}}, {"storage": str(storage)}
    )
    conductor, _, _ = new_conductor(checked)
    drive(conductor, DEFAULT_RUNNER)
    return {path.name: trial_logs.read(path) for path in Path(checked.folder).glob("trials/*")}


def test_the_log_of_a_path_tells_its_epochs_and_snapshots(tmp_path):
    logs = logs_of(tmp_path, PATHS)
    (first,), (second,) = logs["t0000"].attempts, logs["t0001"].attempts
    assert (first.trained, first.taken_over) == ((1, 2, 3, 4), ())
    assert first.snapshots == ((0, 2), (1, 3), (2, 4))
    assert (second.trained, second.taken_over) == ((3, 4, 5, 6), (1, 2)), "the dense phase is shared"
    assert second.snapshots == ((0, 2), (1, 4), (2, 6))
    assert (first.ended, second.ended) == ("complete", "complete")


def test_the_log_of_a_single_trial_tells_its_epochs(tmp_path):
    logs = logs_of(tmp_path, SINGLE)
    assert logs["b0000"].attempts[0].trained == (1, 2, 3)
    (attempt,) = logs["t0000"].attempts
    assert (attempt.trained, attempt.taken_over, attempt.snapshots) == ((2, 3), (1,), ())


def test_what_was_trained_again_after_a_snapshot_was_finished_is_found():
    line = "2026-01-01 00:00:00,000 INFO "
    epoch = line + "gcp_core.training.observe: epoch {}/?  loss 1.0"
    start = line + "sweeps.worker.trial: t0000 starts in process {}: {{}}"
    taken = line + "gcp_core.training.path: snapshot {} after epoch {}: 90 % validation accuracy"
    first = [start.format(1), epoch.format(1), epoch.format(2), taken.format(0, 2), epoch.format(3)]
    sound = trial_logs.parse("\n".join([*first, start.format(2), epoch.format(3), epoch.format(4)]))
    assert (sound.epochs_trained, sound.epochs_repeated, sound.snapshots_retrained) == (5, [1], set())
    lost = trial_logs.parse("\n".join([*first, start.format(2), epoch.format(2), epoch.format(3)]))
    assert (lost.epochs_repeated, lost.snapshots_retrained) == ([2], {0})
