"""The shapes of a cycle: closed forms, peaks, and what a pace of one's own may return."""

import math

import pytest

from gcp_core.config import PruneConfig, TrainConfig
from gcp_core.errors import ConfigError
from gcp_core.schedule.clock import learning_pace
from gcp_core.schedule.paces import build_pace, pace_names

HERE = __name__


def halving(phase, step, steps):
    """A pace of one's own: each cycle at half the rate of the one before."""
    return 0.5**phase


def too_high(phase, step, steps):
    return 2.0


def no_number(phase, step, steps):
    return math.nan


def nothing(phase, step, steps):
    return None


def below_zero(phase, step, steps):
    return 0.5 - step


a_constant = 0.5


def test_linear_falls_from_one_towards_zero():
    pace = build_pace("linear")
    assert [pace(1, step, 5) for step in range(5)] == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])


#: lr0 * (e + 1) for e <= 4, then halved every epoch (spec/methods.md, section 6), over the peak of 5 lr0.
STAIRS = [1 / 5, 2 / 5, 3 / 5, 4 / 5, 1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32]


@pytest.mark.parametrize("each", [1, 3, 40])
def test_slow_start_has_its_ten_stairs_whatever_the_length_of_the_cycle(each):
    pace = build_pace("slow_start")
    expected = [stair for stair in STAIRS for _ in range(each)]
    assert [pace(1, step, 10 * each) for step in range(10 * each)] == expected


def test_slow_start_is_the_formula_with_its_constants():
    """min(e + 1, E) * d^max(0, e - E + 1) of the first rate, E = 5, d = 1/2; its area under the curve."""
    pace = build_pace("slow_start")
    for e in range(10):
        assert pace(1, e, 10) == min(e + 1, 5) * 0.5 ** max(0, e - 5 + 1) / 5
    assert sum(pace(1, e, 10) for e in range(10)) == 3 + 31 / 32


@pytest.mark.parametrize("steps", [10, 15, 16, 23, 96, 1000])
def test_slow_start_rises_to_one_peak_and_falls(steps):
    rates = [build_pace("slow_start")(3, step, steps) for step in range(steps)]
    peak = [step for step, rate in enumerate(rates) if rate == max(rates)]
    assert max(rates) == 1
    assert peak == list(range(peak[0], peak[-1] + 1))
    assert rates[: peak[0] + 1] == sorted(rates[: peak[0] + 1])
    assert rates[peak[-1] :] == sorted(rates[peak[-1] :], reverse=True)
    assert abs(len(peak) - steps / 10) < 1


def test_slow_start_begins_anew_after_every_event_at_the_restarted_rate():
    train = TrainConfig(schedule="cycles", pace="slow_start", restart=0.5)
    pace = learning_pace(train, 5, PruneConfig(start=3, interval=2))
    for cycle in range(3):
        first = 15 + cycle * 10
        assert [pace(first + step) for step in range(10)] == pytest.approx([0.5 * s for s in STAIRS])


def test_the_dense_phase_is_one_cycle_whatever_the_pace():
    plain, other = (
        learning_pace(TrainConfig(schedule="cycles", pace=name), 5, PruneConfig(start=3, interval=2))
        for name in ("linear", "slow_start")
    )
    assert [plain(step) for step in range(15)] == [other(step) for step in range(15)]
    assert plain(15) != other(15)


def test_a_pace_of_ones_own_knows_cycle_and_step():
    train = TrainConfig(schedule="cycles", pace=f"{HERE}:halving")
    pace = learning_pace(train, 2, PruneConfig(start=1, interval=1))
    assert [pace(step) for step in range(2, 8)] == [0.5, 0.5, 0.25, 0.25, 0.125, 0.125]


@pytest.mark.parametrize(
    ("name", "step", "text"),
    [
        ("too_high", 0, "gave 2.0 at step 0 of 4"),
        ("no_number", 0, "gave nan at step 0 of 4"),
        ("nothing", 0, "gave None at step 0 of 4"),
        ("below_zero", 1, "gave -0.5 at step 1 of 4"),
    ],
)
def test_a_pace_that_gives_no_share_is_refused_where_it_does(name, step, text):
    with pytest.raises(ConfigError) as caught:
        build_pace(f"{HERE}:{name}")(1, step, 4)
    assert caught.value.where == "train.pace"
    assert f"{HERE}:{name} {text}" in caught.value.message
    assert caught.value.hint == "a number in 0..1"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lineer", "train.pace: 'lineer' is unknown (did you mean \"linear\"?; or package.module:pace)"),
        ("nowhere:pace", "train.pace: cannot import 'nowhere'"),
        (f"{HERE}:missing", "has no callable 'missing'"),
        (f"{HERE}:a_constant", "has no callable 'a_constant'"),
    ],
)
def test_a_pace_that_is_not_there_is_refused_with_its_name(name, text):
    with pytest.raises(ConfigError) as caught:
        build_pace(name)
    assert text in str(caught.value)


def test_a_pace_under_an_entry_point_is_found_and_checked(monkeypatch):
    from importlib.metadata import EntryPoint, EntryPoints

    from gcp_core import slots

    entries = EntryPoints([EntryPoint("wild", f"{HERE}:too_high", "gcp_core.paces")])
    monkeypatch.setattr(slots, "entry_points", lambda group: entries.select(group=group))
    assert pace_names() == ["linear", "slow_start", "wild"]
    with pytest.raises(ConfigError, match=r"wild gave 2\.0"):
        build_pace("wild")(1, 0, 4)
