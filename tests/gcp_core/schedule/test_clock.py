"""When events are due, and the learning rate at every step."""

import pytest

from gcp_core.config import PruneConfig, TrainConfig, TrialConfig
from gcp_core.schedule.clock import event_epochs, last_epoch, learning_pace, phase_end, phase_of
from gcp_core.schedule.clocks import may_ask
from tests.oracles.rates import slow_rates

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
    assert tuple(e for e in range(1, epochs + 1) if may_ask(prune, epochs, e, [])) == expected


def test_a_baseline_is_never_due():
    assert not any(may_ask(None, 10, epoch, []) for epoch in range(1, 11))


def test_one_cycle_rises_to_the_peak_and_falls_to_zero():
    pace = learning_pace(TrainConfig(epochs=4, schedule="one_cycle", warmup=0.25), steps_per_epoch=2)
    # 8 steps, peak at step 2: 0.04, 0.52, 1, 5/6, 4/6, 3/6, 2/6, 1/6
    assert [round(pace(s), 4) for s in range(8)] == [0.04, 0.52, 1, 0.8333, 0.6667, 0.5, 0.3333, 0.1667]


def test_step_schedule_multiplies_at_each_milestone():
    pace = learning_pace(TrainConfig(epochs=4, schedule="step", milestones=(0.5, 0.75), gamma=0.1), 2)
    assert [round(pace(s), 6) for s in range(8)] == [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]
    by_epoch = learning_pace(TrainConfig(epochs=4, schedule="step", milestones=(2, 3), gamma=0.1), 2)
    assert [by_epoch(s) for s in range(8)] == [pace(s) for s in range(8)]


@pytest.mark.parametrize("epochs", [10, 20, 90, 100, 200])
@pytest.mark.parametrize("steps", [1, 7, 391, 5005])
def test_a_share_is_the_step_that_it_means_also_in_floating_point(epochs, steps):
    """0.55 of 100 epochs is 55, not 55.00000000000001: the rate falls with the first step of the 56th epoch."""
    total = epochs * steps
    for hundredths in range(1, 100):
        train = TrainConfig(epochs=epochs, schedule="step", milestones=(hundredths / 100,), gamma=0.1)
        pace, first = learning_pace(train, steps), -(-hundredths * total // 100)
        assert (pace(first - 1), pace(first)) == (1, 0.1)


def test_a_whole_number_is_an_epoch_also_where_a_config_reader_made_a_float_of_it():
    pace = learning_pace(TrainConfig(epochs=200, schedule="step", milestones=(100.0, 150.0)), 1)
    assert [pace(s) for s in (0, 99, 100, 149, 150, 199)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert TrainConfig(milestones=(1.0, 2)).milestones == (1, 2)


def test_cosine_starts_at_one_and_passes_one_half_in_the_middle():
    pace = learning_pace(TrainConfig(epochs=4, schedule="cosine"), 2)
    assert pace(0) == 1
    assert pace(4) == pytest.approx(0.5)
    assert all(pace(s + 1) < pace(s) for s in range(7))


# --- paths --------------------------------------------------------------------------------------------------------

# start, interval -> (phase, its first epoch, its length) of epochs 1, 2, 3, ...
PHASES = [
    (1, 1, [(0, 1, 1), (1, 2, 1), (2, 3, 1), (3, 4, 1)]),
    (3, 2, [(0, 1, 3)] * 3 + [(1, 4, 2)] * 2 + [(2, 6, 2)] * 2),
    (2, 4, [(0, 1, 2)] * 2 + [(1, 3, 4)] * 4 + [(2, 7, 4)]),
]


@pytest.mark.parametrize(("start", "interval", "expected"), PHASES)
def test_every_epoch_of_a_path_is_in_one_phase(start, interval, expected):
    prune = PruneConfig(start=start, interval=interval)
    assert [phase_of(prune, epoch) for epoch in range(1, len(expected) + 1)] == expected


def test_a_phase_ends_with_its_last_epoch_and_with_no_other():
    prune = PruneConfig(start=3, interval=2)
    assert [e for e in range(12) if phase_end(prune, e)] == [3, 5, 7, 9, 11]
    for epoch in range(1, 40):
        _, first, length = phase_of(prune, epoch)
        assert phase_end(prune, epoch) == (epoch == first + length - 1)


def test_before_the_first_epoch_no_phase_ends():
    """Also where the epochs would divide: 4 - 4 = 0, and so does 0 - 4."""
    assert not any(phase_end(PruneConfig(start=4, interval=4), epoch) for epoch in range(4))


# start, interval, cap -> the last epoch that is trained
CAPS = [
    (4, 6, 4, 4),
    (4, 6, 9, 4),
    (4, 6, 10, 10),
    (4, 6, 15, 10),
    (4, 6, 16, 16),
    (1, 1, 7, 7),
    (3, 5, None, None),
]


@pytest.mark.parametrize(("start", "interval", "cap", "last"), CAPS)
def test_a_cap_ends_a_path_after_its_last_whole_cycle(start, interval, cap, last):
    train = TrainConfig(epochs=cap, schedule="cycles")
    assert last_epoch(train, PruneConfig(start=start, interval=interval)) == last


def test_a_single_trial_ends_with_its_last_epoch():
    assert last_epoch(TrainConfig(epochs=7), PruneConfig(start=4, interval=6)) == 7
    assert last_epoch(TrainConfig(epochs=7), None) == 7


@pytest.mark.parametrize(
    ("start", "interval", "steps", "warmup", "restart"),
    [(4, 3, 5, 0.25, 1.0), (1, 1, 1, 0.25, 1.0), (2, 5, 3, 0.0, 0.5), (3, 2, 7, 0.4, 0.01)],
)
def test_the_rate_of_every_step_of_a_path(start, interval, steps, warmup, restart):
    train = TrainConfig(schedule="cycles", warmup=warmup, restart=restart)
    pace = learning_pace(train, steps, PruneConfig(start=start, interval=interval))
    expected = slow_rates(start, interval, 4, steps, warmup, restart)
    assert len(expected) == (start + 4 * interval) * steps
    assert [pace(step) for step in range(len(expected))] == pytest.approx(expected, abs=1e-12)


def test_a_cycle_starts_at_the_restart_without_warm_up_and_ends_above_zero():
    pace = learning_pace(TrainConfig(schedule="cycles", restart=0.5), 2, PruneConfig(start=1, interval=2))
    # The dense phase: 0.04 at step 0, then (1 - 1/2) / 0.75; each cycle: 0.5 times 1, 3/4, 2/4, 1/4.
    assert [round(pace(s), 4) for s in range(10)] == [0.04, 0.6667, *[0.5, 0.375, 0.25, 0.125] * 2]


def test_the_dense_phase_has_the_rates_of_its_baseline():
    """Bit by bit: they are one training."""
    path = TrialConfig(train=TrainConfig(schedule="cycles"), prune=PruneConfig(start=5, interval=2))
    one, other = learning_pace(path.train, 7, path.prune), learning_pace(path.baseline().train, 7)
    assert [one(step) for step in range(35)] == [other(step) for step in range(35)]
