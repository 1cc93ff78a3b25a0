from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gcp_core.errors import ConfigError
from sweeps.config.sweep_config import comparable, load_config
from sweeps.records.folder import (
    Entry,
    check_unchanged,
    read_config,
    read_entry,
    write_config,
    write_entry,
)
from sweeps.storage.place import renamed
from tests.gcp_core.power_cut import PowerCut
from tests.sweeps.inline import OF_PATHS, config

ENTRY = Entry("0123456789ab", "inline", "sqlite:////x/mlflow.db", "inline", "run1", "d1g3st")


def test_an_entry_reads_back_as_it_was_written(tmp_path: Path) -> None:
    write_entry(tmp_path, ENTRY)
    assert read_entry(tmp_path) == ENTRY


def test_a_power_cut_leaves_the_entry_and_the_config_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    power, checked = PowerCut(monkeypatch), config(tmp_path)
    write_entry(tmp_path, replace(ENTRY, name="before"))
    write_entry(tmp_path, ENTRY)
    write_config(tmp_path, checked)
    power.strike(tmp_path)
    assert read_entry(tmp_path) == ENTRY
    assert read_config(tmp_path).tree == checked.tree


def test_a_sweep_whose_name_looks_like_a_number_continues_from_its_own_config(tmp_path: Path) -> None:
    checked = config(tmp_path, {"name": "08"})
    write_config(tmp_path, checked)
    assert load_config(tmp_path / "config.yaml").tree == read_config(tmp_path).tree == checked.tree


def test_a_folder_without_an_entry_holds_no_sweep(tmp_path: Path) -> None:
    assert read_entry(tmp_path) is None
    with pytest.raises(ConfigError, match="there is no sweep in this folder"):
        read_config(tmp_path)


def test_a_broken_entry_is_named(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(ConfigError, match=r"sweep\.json: is not a valid sweep entry"):
        read_entry(tmp_path)


def test_a_changed_config_is_refused_with_every_difference_and_the_way_out(tmp_path: Path) -> None:
    old = config(tmp_path)
    Path(old.folder).mkdir()
    write_config(Path(old.folder), old)
    check_unchanged(config(tmp_path, {"search.trials": 99, "search.concurrency": 2}))
    with pytest.raises(ConfigError) as caught:
        check_unchanged(config(tmp_path, {"train.epochs": 5, "model.width": 0.5}))
    message = str(caught.value)
    assert (
        "the sweep exists with a different config: model.width: 1.0 -> 0.5; train.epochs: 2 -> 5" in message
    )
    assert "--new starts a new sweep beside it" in message


def test_a_refused_change_says_of_which_keys_others_would_be_taken(tmp_path: Path) -> None:
    single = config(tmp_path / "single")
    paths = config(tmp_path / "paths", OF_PATHS)
    fixed = {key.split(".")[1] for key in comparable(single.tree) if key.startswith("search.")}
    assert fixed == {"sampler", "objectives", "constraints", "points"}  # the words of the message
    said = "what may change: search (but not its sampler, objectives, constraints, points), "
    for old, given, free in (
        (single, {}, "confirm, resources, tracking, storage"),
        (paths, OF_PATHS, "prune.target, train.epochs, baseline, confirm, resources, tracking, storage"),
    ):
        Path(old.folder).mkdir(parents=True)
        write_config(Path(old.folder), old)
        check_unchanged(
            config(Path(old.storage), {**given, "search.hours": 2, "search.plateau": "1% over 9 trials"})
        )
        with pytest.raises(ConfigError) as caught:
            check_unchanged(config(Path(old.storage), {**given, "train.lr": 0.05}))
        assert caught.value.hint.endswith(said + free)


FOUR, GPU = {"resources.cpus": 4}, {"resources.gpus": 1}


@pytest.mark.parametrize(
    "goals",
    [
        {"search.objectives": {"val_accuracy": "max", "latency_ms": "min"}},
        {"search.constraints": ["device_hours <= 1"]},
    ],
)
def test_what_times_are_measured_on_stays_where_the_search_compares_them(tmp_path: Path, goals) -> None:
    """Four threads for the later trials, and each of them would be faster than every earlier one."""
    begun = config(tmp_path, goals)
    Path(begun.folder).mkdir()
    write_config(Path(begun.folder), begun)
    check_unchanged(config(tmp_path, {**goals, "resources.retries": 5}))
    with pytest.raises(
        ConfigError, match=r"different config: resources\.cpus: 1 -> 4 .*but not on what times"
    ):
        check_unchanged(config(tmp_path, {**goals, **FOUR}))
    with pytest.raises(ConfigError, match=r"different config: resources\.gpus: 0 -> 1"):
        check_unchanged(config(tmp_path, {**goals, **GPU}))
    write_config(Path(begun.folder), config(tmp_path, {**goals, **GPU}))
    check_unchanged(config(tmp_path, {**goals, **GPU, **FOUR}))


def test_where_the_search_compares_no_times_resources_may_change(tmp_path: Path) -> None:
    begun = config(tmp_path)
    Path(begun.folder).mkdir()
    write_config(Path(begun.folder), begun)
    check_unchanged(config(tmp_path, {**FOUR, **GPU}))


def test_a_new_sweep_takes_the_first_free_name(tmp_path: Path) -> None:
    assert renamed(config(tmp_path)).name == "inline"
    for name in ("inline", "inline-2"):
        (tmp_path / name).mkdir()
    assert renamed(config(tmp_path)).name == "inline-3"
