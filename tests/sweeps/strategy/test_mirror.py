"""What the sampler sees of paths: each snapshot once, a warm-up of paths, and a bounded number of observations."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from sweeps.strategy.mirror import CAPS, CAPS_SINGLE, Mirror, Observation, thinned
from sweeps.strategy.sampling import Proposer, distributions
from tests.oracles.sweeps.dominance import front
from tests.sweeps.inline import OF_PATHS, config

GOALS = {"val_accuracy": "max", "macs": "min"}
SPACE = {**OF_PATHS, "prune.interval": {"low": 1, "high": 40}, "prune.start": {"low": 1, "high": 20}}


def known(paths: int, levels: int = 8, seed: int = 0) -> list[Observation]:
    rng = random.Random(seed)
    return [
        Observation(path, level, (70 + rng.gauss(0, 3) - level, 100.0 - 10 * level + rng.random()), {})
        for path in range(paths)
        for level in range(levels)
    ]


def places(observations: list[Observation]) -> list[tuple[int, int]]:
    return [(seen.path, seen.place) for seen in observations]


# --- which observations are kept -------------------------------------------------------------------------------------


def test_what_fits_is_kept_as_it_is() -> None:
    few = known(3)
    assert thinned(few, GOALS, 24) == few


def test_the_best_are_kept_and_an_even_share_of_the_others() -> None:
    many = known(500)
    kept = thinned(many, GOALS, 400)
    assert len(kept) == 400
    assert places(kept) == sorted(places(kept)), "in their order"
    best = [
        seen for seen, on_it in zip(many, front([(-a, c) for *_, (a, c), _ in many]), strict=True) if on_it
    ]
    assert 0 < len(best) <= 50
    assert set(places(best)) <= set(places(kept))
    # 350 of the others by lot: of each of 8 levels about an eighth (43.75), of each quarter of the paths a quarter.
    others = [seen for seen in kept if seen not in best]
    assert all(20 < number < 80 for number in Counter(seen.place for seen in others).values())
    assert all(60 < number < 130 for number in Counter(seen.path // 125 for seen in others).values())


def test_the_same_observations_give_the_same_set_in_whatever_order_they_came() -> None:
    many = known(60)
    shuffled = random.Random(1).sample(many, len(many))
    assert sorted(places(thinned(many, GOALS, 100))) == sorted(places(thinned(shuffled, GOALS, 100)))


def test_what_keeps_the_constraints_is_better_than_what_breaks_them_and_less_is_better_than_more() -> None:
    good = [Observation(n, 0, (50.0 - n, 90.0 + n), {"limit": -1.0}) for n in range(3)]
    bad = [Observation(n, 0, (99.0, 1.0), {"limit": float(n)}) for n in range(3, 103)]
    kept = thinned([*bad, *good], GOALS, 32)  # the best: 32 / 8 = 4
    assert {0, 1, 2, 3} <= {seen.path for seen in kept}


# --- in the study -----------------------------------------------------------------------------------------------------


def mirror(
    tmp_path: Path, sampler: str = "tpe", trials: int = 30, seed: int = 0, paths: bool = True
) -> Mirror:
    checked = config(tmp_path, {**SPACE, "search.sampler": sampler, "search.trials": trials})
    return Mirror(checked.search, distributions(checked.space), trials, seed, paths=paths)


def start(on: Mirror, number: int) -> dict[str, object]:
    drawn = on.ask()
    on.accept(number, drawn)
    return drawn.params


def states(on: Mirror) -> Counter[str]:
    return Counter(trial.state.name for trial in on.trials())


def test_more_than_twice_the_cap_is_thinned_and_what_runs_stays(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(CAPS, "tpe", 40)
    on = mirror(tmp_path)
    running = start(on, 0)
    on.tell(0, None, {}, stopped=False)
    waiting = start(on, 1)
    paused = start(on, 2)
    start(on, 3)
    on.tell(3, None, {}, stopped=True)
    for n, seen in enumerate(known(10), start=1):
        path = 10 + seen.path
        if seen.place == 0:
            start(on, path)
        on.observe(path, seen.values, {"limit": -1.0})
        assert states(on)["COMPLETE"] == n <= 80
    on.observe(2, (1.0, 100.0), {"limit": 0.5})
    assert states(on) == {"COMPLETE": 40, "RUNNING": 1, "PRUNED": 1}, (
        "81 are too many; what failed is forgotten"
    )
    (left,) = [trial for trial in on.trials() if trial.state.name == "RUNNING"]
    assert left.params == waiting != running
    on.observe(1, (75.0, 50.0), {})
    assert states(on) == {"COMPLETE": 41, "PRUNED": 1}, "its own trial has the answer"
    assert [t.params for t in on.trials() if t.values == [75.0, 50.0]] == [waiting]
    on.observe(2, (2.0, 100.0), {})
    assert [t.params for t in on.trials() if t.values == [2.0, 100.0]] == [paused], (
        "a path goes on after a pause"
    )
    for number in range(100, 125):
        start(on, number)


def test_constraints_of_an_observation_survive_thinning(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(CAPS, "tpe", 8)
    on = mirror(tmp_path)
    start(on, 0)
    for place in range(17):
        on.observe(0, (70.0 + place, 10.0), {"limit": place - 20.0})
    complete = [t for t in on.trials() if t.state.name == "COMPLETE"]
    assert len(complete) == 8
    assert all(t.constraints == {"limit": t.values[0] - 90.0} for t in complete)


def test_thinned_from_all_that_was_ever_observed_and_the_same_on_every_run(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setitem(CAPS, "tpe", 40)

    def play() -> list[object]:
        on, asked = mirror(tmp_path), []
        for seen in known(60):
            if seen.place == 0:
                asked.append(start(on, seen.path))
            on.observe(seen.path, seen.values, {})
        return [asked, [(t.params, t.values) for t in on.trials()]]

    first = play()
    assert play() == first
    early = {seen.values for seen in known(60) if seen.path < 30}
    assert sum(tuple(values) in early for _, values in first[1]) >= 12, "early paths keep their share"


def test_warm_up_counts_paths_with_a_snapshot_and_not_snapshots(tmp_path: Path) -> None:
    """30 trials planned: ten paths are heard of first, whatever each of them has told."""
    on, by_chance = mirror(tmp_path), []
    for path in range(13):
        start(on, path)
        by_chance.append(on._study.sampler is on._by_chance)
        for place in range(8 if path != 4 else 0):  # one tells nothing
            on.observe(path, (70.0 + path, 100.0 - place), {})
    assert by_chance == [True] * 11 + [False] * 2


def test_single_trials_are_drawn_by_the_sampler_from_the_start(tmp_path: Path) -> None:
    checked = config(tmp_path, {"search.trials": 30})
    on = Mirror(checked.search, distributions(checked.space), 30, 0, paths=False)
    start(on, 0)
    assert on._study.sampler is on._sampler


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_paths_are_found_where_they_pay(tmp_path: Path, sampler: str) -> None:
    """Long cycles are better at every level: most of what is drawn after the warm-up is above the middle."""
    checked = config(tmp_path, {**SPACE, "search.sampler": sampler, "search.trials": 24})
    key = lambda point: checked.space.resolve(point).key()  # noqa: E731
    proposer, late = Proposer(checked.space, checked.search, 24, 0, key, paths=True), []
    for path in range(24 if sampler == "tpe" else 14):
        interval = proposer.propose(path)["prune.interval"]
        late += [interval] if path >= 10 else []
        for level in range(4):
            proposer.observe(path, (60.0 + 0.3 * interval, 100.0 * 0.5**level), {})
        proposer.answer(path, (60.0 + 0.3 * interval, 12.5), {})
    assert sum(interval > 20 for interval in late) >= 0.7 * len(late)


def test_thinning_leaves_what_the_sampler_has_learned(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(CAPS, "tpe", 40)
    checked = config(tmp_path, {**SPACE, "search.trials": 60})
    key = lambda point: checked.space.resolve(point).key()  # noqa: E731
    proposer, late = Proposer(checked.space, checked.search, 60, 0, key, paths=True), []
    for path in range(60):
        interval = proposer.propose(path)["prune.interval"]
        late += [interval] if path >= 30 else []
        for level in range(8):
            proposer.observe(path, (60.0 + 0.3 * interval, 100.0 * 0.7**level), {})
    assert proposer._mirror._rebuilt >= 9
    assert sum(interval > 20 for interval in late) >= 0.7 * len(late)


def test_of_many_single_trials_an_even_share_is_seen_and_the_best_of_all(tmp_path: Path, monkeypatch) -> None:
    """Half of 400 are stopped. With a cap of 40, never more than 80 are seen, and of those as many of either kind."""
    monkeypatch.setitem(CAPS_SINGLE, "tpe", 40)
    on = mirror(tmp_path, paths=False)
    best = (99.0, 1.0)
    for number in range(400):
        start(on, number)
        values = None if number % 2 else best if number == 100 else (50.0 + number / 10, 100.0)
        on.tell(number, values, {}, stopped=values is None)
        seen = states(on)
        assert seen["COMPLETE"] + seen["PRUNED"] <= 80
    start(on, 400)
    assert states(on)["RUNNING"] == 1
    assert abs(seen["COMPLETE"] - seen["PRUNED"]) <= 8
    assert best in [tuple(trial.values) for trial in on.trials() if trial.values]
