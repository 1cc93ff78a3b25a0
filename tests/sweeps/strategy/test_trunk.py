"""Withholding: no epoch of the prefix tree is trained twice, whatever the order and speed of the trials."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest

from gcp_core.config import PruneConfig, TrainConfig, TrialConfig
from gcp_core.schedule.clock import event_epochs
from sweeps.conduct.conductor import Conductor
from sweeps.records.job import Job, Outcome
from sweeps.records.ledger import Ledger
from sweeps.strategy.trunk import PATIENCE_S, Trunk, shared_epochs
from tests.oracles.sweeps.slow_trunk import slow_free, slow_shared_epochs
from tests.sweeps.inline import Recorder, Silent, config, drive, new_conductor

DENSE = 1000.0
GRID: dict[str, Any] = {
    "train": {"epochs": 12},
    "prune.start": 4,
    "prune.until": 1.0,
    "prune.interval": {"choice": [1, 2]},
    "prune.ratio": {"choice": [0.16, 0.31]},  # no event meets a target exactly
    "prune.target": {"choice": [0.3, 0.5, 0.7]},
    "search.sampler": "grid",
    "search.trials": None,
}


def nodes(trial: TrialConfig) -> list[tuple[tuple[Any, ...], float]]:
    """Per epoch: what decides about the state after training it, and what is left of the MACs after its event.

    Every event takes ``ratio`` of what is left (or what the target still allows, which is another removal).
    """
    left, past, states = DENSE, (), []
    events = () if trial.prune is None else event_epochs(trial.prune, trial.train.epochs)
    limit = 0.0 if trial.prune is None else (1 - trial.prune.target) * DENSE
    for epoch in range(1, trial.train.epochs + 1):
        state = (trial.seed, epoch, past)
        if epoch in events and left > limit:
            after = max(limit, left * (1 - trial.prune.ratio))
            past = (*past, (epoch, trial.prune.criterion, left - after))
            left = after
        states.append((state, left))
    return states


class World:
    """Workers at random speed with a store of stages; ``trained`` lists every epoch somebody began to train.

    An epoch is in the store once it is over: whoever comes to it before that trains it too.
    """

    def __init__(self, conductor: Conductor, seed: int) -> None:
        self.conductor, self.rng = conductor, random.Random(seed)
        self.store: set[Any] = set()
        self.trained: list[Any] = []
        self.at: dict[str, int] = {}

    def run(self) -> None:
        running: list[Job] = []
        while self.conductor.has_work or running:
            while (job := self.conductor.next_job()) is not None:
                running.append(job)
                self.at[job.trial_id] = 0
                self.go_on(job)
            assert running, "everybody waits for somebody"
            job = self.rng.choice(running)
            if self.end_epoch(job):
                running.remove(job)

    def end_epoch(self, job: Job) -> bool:
        """The epoch that the job is training is over; True if that was its last."""
        states = nodes(job.config)
        if self.at[job.trial_id] < len(states):
            self.store.add(states[self.at[job.trial_id]][0])
            self.report(job)
            self.go_on(job)
        if self.at[job.trial_id] < len(states):
            return False
        self.conductor.finish(
            job.trial_id, Outcome("complete", {"val_accuracy": 50.0, "macs": states[-1][1]})
        )
        return True

    def go_on(self, job: Job) -> None:
        """Take over what the store has, then begin to train."""
        states = nodes(job.config)
        while self.at[job.trial_id] < len(states) and states[self.at[job.trial_id]][0] in self.store:
            self.report(job)
        if self.at[job.trial_id] < len(states):
            self.trained.append(states[self.at[job.trial_id]][0])

    def report(self, job: Job) -> None:
        left = nodes(job.config)[self.at[job.trial_id]][1]
        self.at[job.trial_id] += 1
        row = {"epoch": self.at[job.trial_id], "val/accuracy": 50.0, "cost/macs": left, "cost/params": left}
        self.conductor.epoch(job.trial_id, row)


def run_world(tmp_path: Path, seed: int, slots: int, *, shared: bool) -> World:
    checked = config(tmp_path, {**GRID, "search.concurrency": slots})
    Path(checked.folder).mkdir(parents=True)
    ledger = Ledger(Path(checked.folder), checked.name, checked.search.objectives)
    world = World(Conductor(checked, ledger, Recorder(), Silent(), trunk=Trunk(shared)), seed)
    world.run()
    assert world.conductor.complete
    assert len(world.at) == 13
    return world


@pytest.mark.parametrize(("seed", "slots"), [(0, 2), (1, 2), (2, 3), (3, 5), (4, 12)])
def test_no_epoch_of_the_prefix_tree_is_trained_twice(tmp_path: Path, seed: int, slots: int) -> None:
    world = run_world(tmp_path, seed, slots, shared=True)
    assert len(world.trained) == len(set(world.trained))


def test_without_withholding_some_epochs_are_trained_twice(tmp_path: Path) -> None:
    world = run_world(tmp_path, 0, 4, shared=False)
    assert len(world.trained) > 1.1 * len(set(world.trained))


def test_another_seed_starts_while_the_first_one_is_training() -> None:
    trunk, owner, waiting = Trunk(), _job(0, "baseline"), _job(1)
    other = dataclasses.replace(_job(2), config=dataclasses.replace(waiting.config, seed=1))
    trunk.started(owner)
    assert trunk.free([waiting, other]) == 1


def _job(number: int, kind: str = "trial", **prune: Any) -> Job:
    part = None if kind == "baseline" else PruneConfig(**{"interval": 1, "until": 1.0, **prune})
    trial = TrialConfig(train=TrainConfig(epochs=8), prune=part)
    return Job(f"{kind[0]}{number:04d}", kind, number, trial, {}, "/nowhere")


#: Events after the epochs 1 to 4 of 8; the fourth takes what is still missing to the target.
FINISHING: dict[str, Any] = {"until": 0.5, "finish": True, "target": 0.6}


@pytest.mark.parametrize(
    ("one", "other", "epochs"),
    [
        ({}, {}, 8),
        ({}, {"target": 0.8}, 8),
        ({}, {"ratio": 0.3}, 1),
        ({"start": 3}, {"start": 3, "ratio": 0.3}, 3),
        ({"start": 2}, {"start": 2, "interval": 3}, 3),
        ({"start": 2, "interval": 2}, {"start": 2, "interval": 3}, 4),
        ({"until": 0.5}, {"until": 0.75}, 5),
        ({"criterion": "l1", "start": 5}, {"start": 2}, 2),
        ({"residual": "inner"}, {}, 1),
        ({**FINISHING}, {**FINISHING}, 8),
        ({**FINISHING}, {**FINISHING, "target": 0.8}, 4),
        ({**FINISHING}, {**FINISHING, "finish": False}, 4),
        ({**FINISHING}, {**FINISHING, "until": 0.75}, 4),
        ({**FINISHING}, {**FINISHING, "ratio": 0.3}, 1),
    ],
)
def test_trials_share_everything_up_to_the_first_event_that_differs(
    one: dict[str, Any], other: dict[str, Any], epochs: int
) -> None:
    a, b = _job(0, **one).config, _job(1, **other).config
    assert shared_epochs(a, b) == shared_epochs(b, a) == slow_shared_epochs(a, b) == epochs


def test_a_sweep_of_trials_that_finish_at_their_target_shares_training(tmp_path: Path) -> None:
    checked = config(tmp_path, {"prune.finish": True, "search.trials": 4, "search.concurrency": 2})
    conductor, _, ledger = new_conductor(checked, trunk=Trunk(True))
    drive(conductor)
    assert conductor.complete
    assert [record.status for record in ledger.records("trial")] == ["complete"] * 4


def test_a_baseline_shares_what_comes_before_the_first_event_and_another_seed_shares_nothing() -> None:
    trial, baseline = _job(0, start=3).config, _job(0, "baseline").config
    assert shared_epochs(trial, baseline) == 3
    assert shared_epochs(dataclasses.replace(trial, seed=1), baseline) == 0


def test_whoever_does_not_report_for_long_holds_nobody_back() -> None:
    clock = [0.0]
    trunk = Trunk(now=lambda: clock[0])
    owner, waiting = _job(0, "baseline"), _job(1, start=4)
    trunk.started(owner)
    assert trunk.free([waiting]) is None
    clock[0] = PATIENCE_S + 1
    assert trunk.free([waiting]) == 0


def test_slow_epochs_earn_more_patience() -> None:
    clock = [0.0]
    trunk = Trunk(now=lambda: clock[0])
    owner, waiting = _job(0, "baseline"), _job(1, start=6)
    trunk.started(owner)
    for epoch in (1, 2):
        clock[0] += 100.0
        trunk.epoch(owner, {"epoch": epoch, "cost/macs": DENSE, "cost/params": DENSE})
    clock[0] += PATIENCE_S + 1
    assert trunk.free([waiting]) is None
    clock[0] += 1000.0
    assert trunk.free([waiting]) == 0


def test_a_job_that_ended_holds_nobody_back() -> None:
    trunk = Trunk()
    owner, waiting = _job(0, "baseline"), _job(1, start=4)
    trunk.started(owner)
    trunk.ended(owner)
    assert trunk.free([waiting]) == 0


def test_a_larger_target_is_released_when_the_smaller_one_is_met() -> None:
    trunk = Trunk()
    baseline, owner, waiting = _job(0, "baseline"), _job(1, target=0.3), _job(2, target=0.6)
    trunk.baseline(baseline, Outcome("complete", {"macs": DENSE, "params": DENSE}))
    trunk.started(owner)
    trunk.epoch(owner, {"epoch": 1, "cost/macs": 0.8 * DENSE, "cost/params": DENSE})
    assert trunk.free([waiting]) is None
    trunk.epoch(owner, {"epoch": 2, "cost/macs": 0.7 * DENSE, "cost/params": DENSE})
    assert trunk.free([waiting]) == 0


def test_trials_that_met_the_same_target_by_the_same_events_stay_alike_to_the_end() -> None:
    trunk = Trunk()
    every, second = _job(1, target=0.3, start=2), _job(2, target=0.3, start=2, interval=2)
    trunk.baseline(_job(0, "baseline"), Outcome("complete", {"macs": DENSE, "params": DENSE}))
    trunk.started(every)
    for epoch, left in ((1, DENSE), (2, 0.7 * DENSE), (7, 0.7 * DENSE)):
        trunk.epoch(every, {"epoch": epoch, "cost/macs": left, "cost/params": left})
        assert trunk.free([second]) is None
    trunk.epoch(every, {"epoch": 8, "cost/macs": 0.7 * DENSE, "cost/params": DENSE})
    assert trunk.free([second]) == 0


@pytest.mark.parametrize("seed", range(6))
def test_the_first_free_job_is_the_one_that_all_pairs_name(seed: int) -> None:
    """Random queues of trials, paths and baselines of two seeds, and random histories of those that run."""
    rng, clock = random.Random(seed), [0.0]
    trunk = Trunk(now=lambda: clock[0])
    trunk.baseline(_job(0, "baseline"), Outcome("complete", {"macs": DENSE, "params": DENSE}))
    queue, running, left, found = [], [], {}, []
    for number in range(400):
        queue.append(_any_job(rng, number))
        position = trunk.free(queue)
        assert position == slow_free(trunk, queue)
        found.append(position)
        if position is not None and len(running) < 12:
            job = queue.pop(position)
            trunk.started(job)
            running.append(job)
            left[job.trial_id] = (0, DENSE)
        clock[0] += rng.choice([1.0, 20.0, PATIENCE_S])
        for job in rng.sample(running, min(3, len(running))):
            epoch, macs = left[job.trial_id]
            macs *= rng.choice([1.0, 0.7])
            left[job.trial_id] = (epoch + 1, macs)
            trunk.epoch(job, {"epoch": epoch + 1, "cost/macs": macs, "cost/params": macs})
            if epoch + 1 == 8 or rng.random() < 0.1:
                trunk.ended(job)
                running.remove(job)
        if len(queue) > 20:
            queue.pop(0)
    assert None in found
    assert len(set(found)) > 8


def _any_job(rng: random.Random, number: int) -> Job:
    name, seed = f"t{number:04d}", rng.choice([0, 1])
    if rng.random() < 0.2:
        prune = PruneConfig(start=rng.choice([2, 4]), interval=2, until=None, target=0.7)
        train = TrainConfig(schedule="cycles", epochs=None)
        return Job(name, "trial", number, TrialConfig(seed=seed, train=train, prune=prune), {}, "/nowhere")
    prune = rng.choice([{}, {"start": 3}, {"interval": 2}, {"ratio": 0.3}, {"until": 0.5}])
    target = rng.choice([None, 0.3, 0.5])
    job = _job(number, "baseline" if rng.random() < 0.1 else "trial", target=target, **prune)
    return dataclasses.replace(job, trial_id=name, config=dataclasses.replace(job.config, seed=seed))


def test_many_waiting_jobs_are_compared_with_whoever_held_them_back_and_with_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fifty running trials and a hundred that wait: asking again and again compares no pair of them again."""
    trunk, pairs = Trunk(now=lambda: 0.0), []
    for number in range(50):
        trunk.started(_job(number, start=4, ratio=0.1 + number / 1000))
    queue = [_job(100 + number, start=4, ratio=0.2 + number / 1000) for number in range(100)]
    assert trunk.free(queue) is None
    monkeypatch.setattr("sweeps.strategy.trunk._alike", lambda one, other: pairs.append(one) or 0)
    assert [trunk.free(queue) for _ in range(20)] == [None] * 20
    assert not pairs
