"""When events are due, and the learning rate at every step."""

import pytest

from gcp_core.config import PruneConfig, TrainConfig
from gcp_core.schedule.clock import event_epochs, learning_pace, prune_clock

# start, interval, until, epochs -> epochs that end in an event
EVENTS = [
    (None, 1, 0.5, 8, (1, 2, 3, 4)),
    (None, 3, 0.75, 20, (3, 6, 9, 12, 15)),
    (4, 5, 15, 20, (4, 9, 14)),
    (None, 4, 0.7, 10, (4,)),  # 0.7 of 10 epochs is 7, also in floating point
    (None, 7, 0.7, 10, (7,)),
    (9, 1, 0.5, 10, ()),
    (None, 2, 30, 6, (2, 4, 6)),  # until past the end: every epoch counts
    # The paper's CIFAR-10 ResNet schedule: n = 21, N1 = 150 (7 events).
    (None, 21, 150, 200, (21, 42, 63, 84, 105, 126, 147)),
]


@pytest.mark.parametrize(("start", "interval", "until", "epochs", "expected"), EVENTS)
def test_events_fall_every_interval_from_start_until_the_end(start, interval, until, epochs, expected):
    prune = PruneConfig(start=start, interval=interval, until=until)
    assert event_epochs(prune, epochs) == expected
    clock = prune_clock(prune, epochs)
    assert tuple(e for e in range(1, epochs + 1) if clock(e)) == expected


def test_a_baseline_is_never_due():
    assert not any(map(prune_clock(None, 10), range(1, 11)))


def test_one_cycle_rises_to_the_peak_and_falls_to_zero():
    pace = learning_pace(TrainConfig(epochs=4, schedule="one_cycle", warmup=0.25), steps_per_epoch=2)
    # 8 steps, peak at step 2: 0.04, 0.52, 1, 5/6, 4/6, 3/6, 2/6, 1/6
    assert [round(pace(s), 4) for s in range(8)] == [0.04, 0.52, 1, 0.8333, 0.6667, 0.5, 0.3333, 0.1667]


def test_step_schedule_multiplies_at_each_milestone():
    pace = learning_pace(TrainConfig(epochs=4, schedule="step", milestones=(0.5, 0.75), gamma=0.1), 2)
    assert [round(pace(s), 6) for s in range(8)] == [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]
    by_epoch = learning_pace(TrainConfig(epochs=4, schedule="step", milestones=(2, 3), gamma=0.1), 2)
    assert [by_epoch(s) for s in range(8)] == [pace(s) for s in range(8)]


def test_a_whole_number_is_an_epoch_also_where_a_config_reader_made_a_float_of_it():
    pace = learning_pace(TrainConfig(epochs=200, schedule="step", milestones=(100.0, 150.0)), 1)
    assert [pace(s) for s in (0, 99, 100, 149, 150, 199)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert TrainConfig(milestones=(1.0, 2)).milestones == (1, 2)


def test_cosine_starts_at_one_and_passes_one_half_in_the_middle():
    pace = learning_pace(TrainConfig(epochs=4, schedule="cosine"), 2)
    assert pace(0) == 1
    assert pace(4) == pytest.approx(0.5)
    assert all(pace(s + 1) < pace(s) for s in range(7))
