"""What an existing sweep of paths keeps, and what may be asked of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gcp_core.errors import ConfigError
from sweeps.cli import main
from sweeps.config.sweep_config import SweepConfig
from sweeps.driver import launch
from sweeps.driver.launch import Launch
from sweeps.driver.preflight import continued
from sweeps.records.folder import Entry, read_config, write_config, write_entry
from tests.sweeps.inline import OF_PATHS, PATHS, config, drive, new_conductor


def of_paths(tmp_path: Path, **overrides: Any) -> SweepConfig:
    given = {name.replace("__", "."): value for name, value in overrides.items()}
    return config(tmp_path, {**OF_PATHS, "prune.ratio": 0.3, "search.trials": 4, **given})


@pytest.fixture
def begun(tmp_path: Path) -> SweepConfig:
    """Its baseline has 10 epochs: the dearest path costs 2 + 4 * (.7 + .49 + .343 + .24 + .168) = 9.77."""
    checked = of_paths(tmp_path)
    conductor, _, _ = new_conductor(checked)
    drive(conductor, PATHS)
    write_config(Path(checked.folder), checked)
    write_entry(Path(checked.folder), Entry("0123456789ab", checked.name, None, "e", "run", checked.digest()))
    return checked


@pytest.mark.parametrize(
    "more",
    [{"prune__target": 0.97}, {"search__max_path_cost": 4}, {"train__epochs": 4}, {"search__min_gain": 1.0}],
)
def test_the_baseline_keeps_its_length_whatever_paths_may_cost_later(
    begun: SweepConfig, tmp_path: Path, more: dict[str, Any]
) -> None:
    wanted = of_paths(tmp_path, **more)
    kept = continued(wanted)
    assert begun.baseline.epochs == 10
    assert kept.baseline.epochs == kept.tree["baseline"]["epochs"] == 10
    assert kept.space.resolve(kept.space.first()).baseline().train.epochs == 10
    assert kept.search == wanted.search
    (path,) = more
    part, name = path.split("__")
    assert kept.tree[part][name] == wanted.tree[part][name] == more[path]
    if path != "search__min_gain":
        assert wanted.baseline.epochs != 10, "a new sweep would have another one"


def test_the_baselines_length_changes_if_the_user_says_so(begun: SweepConfig, tmp_path: Path) -> None:
    assert continued(of_paths(tmp_path, baseline__epochs=11)).baseline.epochs == 11


def test_a_sweep_that_went_on_still_has_the_length_it_began_with(begun: SweepConfig, tmp_path: Path) -> None:
    kept = continued(of_paths(tmp_path, prune__target=0.97))
    write_config(Path(kept.folder), kept)
    assert continued(of_paths(tmp_path, prune__target=0.99)).baseline.epochs == 10
    assert read_config(Path(kept.folder)).baseline.epochs == 10


def test_a_new_sweep_and_one_of_single_trials_are_as_they_are_written(tmp_path: Path) -> None:
    for checked in (of_paths(tmp_path), config(tmp_path)):
        assert continued(checked) is checked


@pytest.mark.parametrize("more", [{}, OF_PATHS])
def test_objectives_keep_the_order_in_which_the_ledger_holds_their_values(
    tmp_path: Path, more: dict[str, Any]
) -> None:
    written = {"search.objectives": {"macs": "min", "val_accuracy": "max"}}
    first = config(tmp_path, more)
    Path(first.folder).mkdir()
    write_config(Path(first.folder), first)
    swapped = config(tmp_path, {**more, **written, "search.trials": 9})
    assert list(swapped.search.objectives) == ["macs", "val_accuracy"]
    kept = continued(swapped)
    assert list(kept.search.objectives.items()) == [("val_accuracy", "max"), ("macs", "min")]
    assert list(kept.tree["search"]["objectives"]) == ["val_accuracy", "macs"]
    assert (kept.search.trials, kept.space) == (9, swapped.space)
    other = {"search.objectives": {"macs": "min", "val_accuracy": "min"}}
    with pytest.raises(ConfigError, match=r"search\.objectives\.val_accuracy: max -> min"):
        continued(config(tmp_path, {**more, **other}))


def test_fewer_paths_than_have_started_are_refused_with_their_number(
    begun: SweepConfig, tmp_path: Path
) -> None:
    assert continued(of_paths(tmp_path, search__trials=4)).search.trials == 4
    with pytest.raises(ConfigError) as caught:
        continued(of_paths(tmp_path, search__trials=3))
    assert str(caught.value).startswith(
        "search.trials: 3 is fewer than the trials that have already started: 4 paths have (at least 4;"
    )


def test_run_refuses_them_with_exit_code_2_and_goes_on_with_the_length_it_began_with(
    begun: SweepConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps({**begun.tree, "baseline": {"epochs": None}}))
    before = (Path(begun.folder) / "config.yaml").read_text()
    for verb in ("plan", "check", "run"):
        done = CliRunner().invoke(main, [verb, str(file), "search.trials=3"])
        assert done.exit_code == 2, done.output
        assert "4 paths have" in done.output
    assert (Path(begun.folder) / "config.yaml").read_text() == before

    orders = []
    monkeypatch.setattr(launch, "_run_once", orders.append)
    launch.run(str(file), {"search.trials": 5, "prune.target": 0.97}, Launch(check=lambda trial: None))
    assert [order.config.baseline.epochs for order in orders] == [10]


def test_what_has_not_started_may_be_asked_back(tmp_path: Path) -> None:
    checked = of_paths(tmp_path)
    conductor, _, _ = new_conductor(checked)
    conductor.next_job()
    write_config(Path(checked.folder), checked)
    write_entry(Path(checked.folder), Entry("0123456789ab", checked.name, None, "e", "run", checked.digest()))
    assert continued(of_paths(tmp_path, search__trials=1)).search.trials == 1


def test_single_trials_may_be_asked_for_in_smaller_number(tmp_path: Path) -> None:
    checked = config(tmp_path, {"search.trials": 3})
    conductor, _, _ = new_conductor(checked)
    drive(conductor)
    write_config(Path(checked.folder), checked)
    write_entry(Path(checked.folder), Entry("0123456789ab", checked.name, None, "e", "run", checked.digest()))
    assert continued(config(tmp_path, {"search.trials": 2})).search.trials == 2


def test_the_refusal_of_another_config_lists_what_may_change(begun: SweepConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        continued(of_paths(tmp_path, prune__ratio=0.4))
    text = str(caught.value)
    assert "prune.ratio: 0.3 -> 0.4" in text
    for name in ("what may change: search (but not", "prune.target", "train.epochs", "baseline"):
        assert name in text


def test_paths_that_are_too_dear_are_never_proposed(tmp_path: Path) -> None:
    """Cycles of 1 .. 4 epochs cost 2 + 1.94 * interval dense epochs."""
    conductor, _, ledger = new_conductor(of_paths(tmp_path, search__max_path_cost=6.0))
    drive(conductor, PATHS)
    assert sorted(record.job.config.prune.interval for record in ledger.records("trial")) == [1, 2]
    assert conductor.complete


@pytest.mark.parametrize("sampler", ["grid", "random", "qmc", "nsga2"])
def test_no_sampler_proposes_what_is_too_dear(tmp_path: Path, sampler: str) -> None:
    conductor, _, ledger = new_conductor(
        of_paths(tmp_path, search__max_path_cost=6.0, search__sampler=sampler)
    )
    drive(conductor, PATHS)
    assert {record.job.config.prune.interval for record in ledger.records("trial")} == {1, 2}
