"""The settings that docs/paths.md recommends: what was measured with them, and what is run where they are promised."""

from __future__ import annotations

import argparse
import json
import re
import statistics
from typing import Any

import yaml

from benchmarks.head_to_head import search_race
from benchmarks.record import RESULTS, ROOT

PAGE = ROOT / "docs" / "paths.md"


def recommended() -> dict[str, dict[str, Any]]:
    """The settings that the guide to paths begins with."""
    page = PAGE.read_text(encoding="utf-8")
    return {name: yaml.safe_load(said) for name, said in re.findall(r"\| (\w+) \| `(\{.*?\})` \|", page)}


def test_the_race_without_a_search_runs_what_the_page_recommends(tmp_path):
    options = argparse.Namespace(path=tmp_path, seed=7, cores=2, smoke=False)
    tree, printed = search_race.config_of("guide", options, tmp_path), recommended()
    ran = [
        {key.removeprefix("prune."): value for key, value in point.items()}
        | {"repair": tree["prune"]["repair"]}
        for point in tree["search"]["points"]
    ]
    assert ran == [printed["best"], printed["balanced"], printed["fast"]]


def test_the_settings_of_the_guide_give_what_was_recorded():
    studies = {
        "fast": ("study_settings_12", "start 3, interval 10, 4 levels"),
        "best": ("study_settings_30", "start 6, interval 12"),
    }
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    for name, (study, training) in studies.items():
        values = json.loads((RESULTS / f"{study}.json").read_text())["results"][training]
        shares = [statistics.mean(values[f"at {share}% of the MACs"]["seeds"]) for share in (50, 35, 20, 10)]
        said = f"| {', '.join(f'{share:.1f}' for share in shares)} | {values['cost']:.1f} |"
        line = next(line for line in lines if line.startswith(f"| {name} | `"))
        assert said in line


def test_the_quick_config_tries_first_what_the_page_recommends():
    config = yaml.safe_load((ROOT / "configs" / "cifar10_quick.yaml").read_text(encoding="utf-8"))
    printed = recommended()
    tried = [
        {key.removeprefix("prune."): value for key, value in point.items() if key != "prune.criterion"}
        for point in config["search"]["points"]
    ]
    everywhere = {"repair": config["prune"]["repair"]}
    assert [point | everywhere for point in tried] == [printed["balanced"], printed["fast"]]
