"""Which sweep a folder and a store belong to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gcp_core.errors import ConfigError
from sweeps.config.sweep_config import SweepConfig
from sweeps.records.folder import Entry, read_entry, write_config, write_entry
from sweeps.records.layout import CONFIG, ENTRY
from sweeps.storage.exchange import ObjectExchange
from sweeps.storage.place import bring_home, open_sweep
from tests.sweeps.inline import config


def _in_store(tmp_path: Path, store: str, ledger: str = "ledgers") -> SweepConfig:
    where = {"storage": f"memory://{tmp_path.name}/{store}", "ledger": str(tmp_path / ledger)}
    return config(tmp_path, where)


def _begin(checked: SweepConfig, number: str, told: bool = True) -> ObjectExchange:
    """A sweep as a driver leaves it, in its working folder and (``told``) in its store."""
    exchange = ObjectExchange(Path(checked.folder), checked.store or "")
    exchange.root.mkdir(parents=True)
    write_config(exchange.root, checked)
    write_entry(exchange.root, Entry(number, checked.name, None, "x", None, "x"))
    if told:
        exchange.send(ENTRY, CONFIG)
    return exchange


@pytest.mark.parametrize("begun", [False, True], ids=["empty", "begun"])
def test_two_sweeps_of_one_name_in_two_stores_do_not_share_a_ledger(tmp_path: Path, begun: bool) -> None:
    """The second one's trials would be entered as the first one's, or the other way round."""
    first = _begin(_in_store(tmp_path, "first"), "1")
    if begun:
        _begin(_in_store(tmp_path, "second", ledger="elsewhere"), "2")
    checked = _in_store(tmp_path, "second")
    second = ObjectExchange(Path(checked.folder), checked.store or "")
    assert second.root == first.root
    with pytest.raises(
        ConfigError, match=r"holds another sweep of that name, not the one at memory://.*/second"
    ):
        bring_home(second)
    assert read_entry(first.root).id == "1"  # type: ignore[union-attr]
    bring_home(first)


def test_a_sweep_goes_on_where_its_store_was_moved_or_never_told_of_it(tmp_path: Path) -> None:
    begun = _in_store(tmp_path, "first")
    _begin(begun, "1", told=False)
    bring_home(ObjectExchange(Path(begun.folder), begun.store or ""))
    moved = _in_store(tmp_path, "moved")
    _begin(_in_store(tmp_path, "moved", ledger="elsewhere"), "1")
    bring_home(ObjectExchange(Path(moved.folder), moved.store or ""))


def test_a_sweep_that_is_looked_at_by_its_address_leaves_another_ones_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its driver, on another machine, has a folder of that name for its ledger too."""
    monkeypatch.setenv("GCP_CACHE_DIR", str(tmp_path / "cache"))
    checked = _in_store(tmp_path, "second")
    driver = _begin(checked, "2")
    driver.root.rename(tmp_path / "on another machine")
    mine = _begin(_in_store(tmp_path, "first"), "1")
    seen = open_sweep(checked.store or "")
    assert seen.folder.is_relative_to(tmp_path / "cache")
    assert read_entry(seen.folder).id == "2"  # type: ignore[union-attr]
    assert read_entry(mine.root).id == "1"  # type: ignore[union-attr]


def test_a_sweep_of_a_colleague_on_this_machine_is_looked_at_without_the_folder_of_its_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permissions do not bind the superuser, whom containers test as: the answer is played."""
    monkeypatch.setenv("GCP_CACHE_DIR", str(tmp_path / "cache"))
    checked = _in_store(tmp_path, "theirs")
    _begin(checked, "1")
    assert open_sweep(checked.store or "").folder == Path(checked.folder)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert open_sweep(checked.store or "").folder.is_relative_to(tmp_path / "cache")
