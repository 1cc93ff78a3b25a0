"""What the rule of a sweep of paths is expected to spend, played without training."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner

from sweeps.cli import main
from sweeps.commands.pauses import pauses, training_cost
from sweeps.commands.rehearsal import Played, Rehearsal, distinct_states
from sweeps.config.sweep_config import SweepConfig, load_config
from sweeps.records.folder import Entry, write_config, write_entry
from sweeps.records.job import Outcome, Snap
from sweeps.records.ledger import Ledger
from sweeps.strategy.feasibility import Feasibility

SCHEMA = Path(__file__).parents[3] / "docs" / "schemas" / "sweep" / "plan.json"
TREE = {
    "name": "plan",
    "data": {"name": "digits", "train_images": 300},
    "model": {"name": "vgg_tiny", "width": 0.25},
    "train": {"schedule": "cycles", "batch_size": 64},
    "prune": {
        "criterion": "l1", "start": {"choice": [2, 4]}, "interval": {"choice": [1, 2, 3]},
        "ratio": {"choice": [0.3, 0.5]}, "target": 0.9,
    },
    "search": {"trials": 12, "concurrency": 2, "sampler": "tpe"},
}  # fmt: skip


def a_config(tmp_path: Path, **more: object) -> SweepConfig:
    return load_config(TREE, {"storage": str(tmp_path), **{k.replace("__", "."): v for k, v in more.items()}})


@pytest.fixture(scope="module")
def played() -> list[Played]:
    config, rehearsal = load_config(TREE), Rehearsal(Feasibility())
    return [rehearsal.play(config.space.resolve(point)) for point in config.space.grid()]


def test_shared_training_costs_once(played: list[Played]) -> None:
    dense = [path.until(path.config.prune.start) for path in played]
    assert training_cost(dense, share=True) == 4 + 2, (
        "two kinds of dense phase, and one-cycle over two is no prefix"
    )
    assert training_cost(dense, share=False) == 6 * 4 + 6 * 2
    assert training_cost(played, share=True) < distinct_states(played), "pruned epochs cost less than one"


def test_the_rule_spends_less_than_all_paths_to_their_ends(tmp_path: Path, played: list[Played]) -> None:
    found = pauses(a_config(tmp_path), played)
    assert (found.paths, found.recorded, found.dense_cost) == (12, 0, 6.0)
    assert found.dense_cost < found.cost < 0.9 * found.cost_to_ends
    assert found == pauses(a_config(tmp_path), played), "the same every time"
    assert "accuracies imagined: 90 % falling by 20 points x (share removed)^3" in found.lines()[-1][1]


def test_where_whatever_gains_is_worth_it_more_is_spent(tmp_path: Path, played: list[Played]) -> None:
    eager, strict = (pauses(a_config(tmp_path, search__min_gain=gain), played) for gain in (0, 5))
    assert strict.cost < eager.cost <= eager.cost_to_ends
    assert strict.started < eager.started


def test_single_trials_have_no_pauses(tmp_path: Path) -> None:
    single = load_config({**TREE, "train": {"epochs": 4}}, {"storage": str(tmp_path), "prune.target": 0.5})
    assert pauses(single, [Rehearsal(Feasibility()).play(single.space.resolve(single.space.first()))]) is None


def test_recorded_paths_say_how_accuracies_fall(tmp_path: Path, played: list[Played]) -> None:
    """Where they fell at once, nothing beyond the first levels is worth its epochs."""
    config = a_config(tmp_path)
    folder = Path(config.folder)
    folder.mkdir(parents=True)
    write_config(folder, config)
    write_entry(folder, Entry("aaaa", config.name, None, config.name, "r", config.digest(), "interrupted"))
    ledger = Ledger(folder, config.name, config.search.objectives)
    job = ledger.add("trial", config.space.resolve(config.space.first()), {}, {})
    for level, (removed, accuracy) in enumerate(((0.0, 90.0), (0.3, 75.0), (0.5, 60.0), (0.9, 20.0))):
        finals = {"val_accuracy": accuracy, "macs": 100 * (1 - removed), "macs_removed": removed}
        ledger.add_snapshot(job, Snap(level, 2 + level, finals), (accuracy, 100 * (1 - removed)), {})
    ledger.close(job, Outcome("complete", finals, ended="target"), (20.0, 10.0))
    found = pauses(config, played)
    imagined = pauses(a_config(tmp_path / "elsewhere"), played)
    assert found.recorded == 1
    assert found.cost < imagined.cost
    assert found.lines()[-1][1].endswith("accuracies as the 1 recorded paths went")


def test_the_plan_of_paths_says_both_costs(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(json.dumps({**TREE, "storage": str(tmp_path / "runs")}))
    done = CliRunner().invoke(main, ["plan", str(file), "--untimed"])
    assert "paths to the end  12 cost " in done.stdout, done.output
    assert "with pauses       about " in done.stdout
    answer = json.loads(CliRunner().invoke(main, ["plan", str(file), "--untimed", "--json"]).stdout)
    jsonschema.validate(answer, json.loads(SCHEMA.read_text()))
    assert answer["pauses"]["cost"] < answer["pauses"]["cost_to_ends"]
