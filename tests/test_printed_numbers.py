"""The tables of docs/results.md say what their records say, to the last digit that is printed."""

from __future__ import annotations

import json
import math
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

from benchmarks.yardstick import summary

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results.md"
PAGES = sorted((*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "benchmarks" / "README.md"))
#: Rows of a table that have a name of their own in the records.
NAMES = {"uniform `l1`": "path, uniform l1", "`frs`, repaired": "path, frs, repaired"}
#: Rows of the table of sizes and the models of each: share of the MACs, or level of the path.
SINGLES = {
    "four single trials, as dear as one path together": "single to {share}, a quarter of a path",
    "four single trials of 30 epochs": "single to {share}, 30 epochs",
    "a path, 4 + 6, its four models polished": "path 4 + 6, snapshot {level} polished for 12 epochs",
    "a path, 4 + 6, repaired, its four models polished": (
        "path 4 + 6, repaired, snapshot {level} polished for 12 epochs"
    ),
}
#: A row of another study among these.
LONG = "a path, 6 + 12, repaired"
LONG_AHEAD = "a repaired path, 6 + 12, against single trials of 30 epochs"
ANCHORS = ("from chance", "usable")
#: Rows of the tables of searches and the sides of their records.
SEARCHED = {"paths": "paths", "paths, then polish": "polished", "peer": "peer", "single trials": "singles"}
GUIDED = {"three paths of the guide": "guide", "peer": "peer"}


def record(name: str) -> dict[str, Any]:
    """The results of a benchmark's record."""
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))["results"]


def trained(study: str, training: str) -> list[dict[str, Any]]:
    """The models of a training of a study, of all seeds."""
    text = (ROOT / "benchmarks" / "data" / f"study_{study}.jsonl").read_text(encoding="utf-8")
    return [row for row in map(json.loads, text.splitlines()[1:]) if row["training"] == training]


def rows(heading: str, number: int = 0, page: Path = RESULTS) -> list[list[str]]:
    """The cells of a table of a section (0 = its first), without its head."""
    text = page.read_text(encoding="utf-8").split(f"\n## {heading}\n", 1)[1]
    blocks = text.split("\n## ")[0].split("\n\n")
    table = [block.splitlines() for block in blocks if block.startswith("|")][number]
    return [[" ".join(cell.split()) for cell in line.strip("|").split("|")] for line in table[2:]]


def differences(first: list[float], second: list[float]) -> str:
    """The least and the largest difference, seed by seed, as the pages print them."""
    pairs = [round(one - two, 2) for one, two in zip(first, second, strict=True)]
    # Half a tenth goes away from 0, as by hand.
    low, high = (
        f"{math.copysign(math.floor(abs(pair) * 10 + 0.5 + 1e-9) / 10, pair):.1f}"
        for pair in (min(pairs), max(pairs))
    )
    return f"{low} to {high}"


def with_width(value: dict[str, Any], digits: int) -> str:
    """A mean and half of its interval, as the pages print them."""
    # The recorded mean is rounded already.
    return f"{statistics.mean(value['seeds']):.{digits}f} ± {value['half_width']:.{digits}f}"


def seed_by_seed(values: dict[str, Any]) -> list[str]:
    """The accuracy at or below each share, of every seed, as the pages print them."""
    shares = (values[f"at {share}% of the MACs"]["seeds"] for share in (50, 35, 20, 10))
    return [", ".join(f"{value:.1f}" for value in seeds) for seeds in shares]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_all_rows_of_a_table_have_as_many_cells_as_its_head(page):
    wrong, wanted, code = [], 0, False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        code ^= line.lstrip().startswith("```")
        if code or not line.startswith("|"):
            wanted = 0
            continue
        cells = len(re.findall(r"(?<!\\)\|", line))
        if cells != (wanted := wanted or cells):
            wrong.append((number, line))
    assert wrong == []


@pytest.mark.parametrize(
    ("heading", "study", "least"),
    [
        ("Which criterion, on equal paths", "study_criteria", 6),
        ("Published methods, on equal paths", "study_methods", 16),
    ],
)
def test_a_table_of_paths_says_what_its_study_recorded(heading, study, least):
    accuracy, table = record(study)["accuracy"], rows(heading)
    assert len(table) >= least
    for name, *cells in table:
        values = accuracy[NAMES.get(name, f"path, {name.strip('`')}")]
        shares = [with_width(values[f"at {share}% of the MACs"], 1) for share in (50, 20, 10)]
        recorded = [*shares, with_width(values["hypervolume, usable"], 2), f"{values['cost']:.1f}"]
        assert cells == recorded, name


def test_the_table_of_one_path_says_what_was_recorded():
    recorded = record("path_front")
    shares, volumes = rows("One path, three seeds")[:4], rows("One path, three seeds")[4:]
    assert [row[0] for row in shares] == ["50 %", "35 %", "20 %", "10 %"]
    for share, *cells in shares:
        values = recorded[f"at {share.replace(' ', '')} of the MACs"]
        seeds = ", ".join(f"{value:.1f}" for value in values["seeds"])
        best = values["best of the single trials"]
        assert cells == [with_width(values, 1), seeds, f"{values['test']:.1f}", f"{best:.1f}"]
    assert [row[0] for row in volumes] == ["hypervolume from chance", "hypervolume, usable"]
    for name, *cells in volumes:
        values = recorded[name.replace("e from", "e, from")]
        printed = [
            with_width(values, 3),
            ", ".join(f"{value:.3f}" for value in values["seeds"]),
            "",
            f"{values['single trials']:.3f}",
        ]
        assert cells == [re.sub(r"\b0\.", ".", cell) for cell in printed]


@pytest.mark.parametrize(("number", "cost"), enumerate((12, 18, 30)))
def test_the_tables_of_settings_say_what_was_recorded(number, cost):
    recorded, table = record(f"study_settings_{cost}"), rows("How to set a path", number)
    assert [name for name, *_ in table] == sorted(
        recorded, key=lambda name: -recorded[name]["hypervolume, usable"]["mean"]
    )
    for name, *cells in table:
        values = recorded[name]
        volumes = ", ".join(f"{value:.2f}" for value in values["hypervolume, usable"]["seeds"])
        assert cells == [*seed_by_seed(values), volumes, f"{values['cost']:.1f}"], name


def test_the_table_of_criteria_on_a_residual_network_says_what_was_recorded():
    recorded, table = record("study_criteria_resnet")["accuracy"], rows("Which criterion, on equal paths", 2)
    names = {f"path, {name.strip('`')}": cells for name, *cells in table}
    assert names.keys() == recorded.keys()
    for name, cells in names.items():
        assert cells == [*seed_by_seed(recorded[name]), f"{recorded[name]['cost']:.1f}"], name


def test_the_table_of_additions_says_what_was_recorded():
    recorded = record("study_additions")
    for name, *cells in rows("Distillation and averages"):
        assert cells == [*seed_by_seed(recorded[name]), f"{recorded[name]['cost']:.1f}"], name


def test_the_table_of_a_front_by_hand_says_what_was_recorded():
    sides = record("front_race")["sides"]
    names = {
        "a path, repaired": "ours: t0000",
        "steps, Taylor": "steps: taylor",
        "steps, magnitude": "steps: magnitude",
        "one cut per size": "one_shot",
    }
    table = rows("A front by hand")
    assert [name for name, *_ in table] == list(names)
    for name, *cells in table:
        values = sides[names[name]]
        assert values["seeds"] == [0, 1, 2]
        both = [
            [values[f"{kind} accuracy at {share}% of the MACs"] for kind in ("val", "test")]
            for share in (50, 35, 20, 10)
        ]
        shares = [f"{with_width(val, 1)} ({statistics.mean(test['seeds']):.1f})" for val, test in both]
        cost = statistics.mean(values["training cost"]["seeds"])
        assert cells == [*shares, with_width(values["hypervolume, usable"], 2), f"{cost:.1f}"], name


@pytest.mark.parametrize(
    ("name", "number", "names"), [("search_race", 0, SEARCHED), ("guide_race", 3, GUIDED)]
)
def test_the_tables_of_the_searches_of_45_minutes_say_what_was_recorded(name, number, names):
    sides, table = record(name)["sides"], rows("A search of 45 minutes", number)
    assert [name for name, *_ in table] == list(names)
    for name, *cells in table:
        side = sides[names[name]]
        accuracies = [
            " (".join(f"{side[f'{kind} accuracy at {share}% of the MACs']:.1f}" for kind in ("val", "test"))
            for share in (50, 35, 20, 10)
        ]
        volumes = [f"{side[f'hypervolume, {anchor}']:.3f}".lstrip("0") for anchor in ANCHORS]
        counts = [str(side["models"]), f"{side['training cost']:.0f}"]
        assert cells == [*(f"{both})" for both in accuracies), *volumes, *counts]


def test_the_table_of_two_searches_at_equal_cost_says_what_was_recorded():
    sides, table = record("searched")["sides"], rows("Two searches at equal cost")
    printed = [(SEARCHED[name], f"after {cost} dense epochs") for name, cost, *_ in table]
    assert printed == [(side, key) for side in sides for key in sides[side] if key.startswith("after")]
    for (side, key), (_, _, *cells) in zip(printed, table, strict=True):
        values = sides[side][key]
        for cell, share in zip(cells, (50, 35, 20, 10), strict=False):
            both = [values[f"{kind} accuracy at {share}% of the MACs"] for kind in ("val", "test")]
            assert cell == ("none" if None in both else "{:.1f} ({:.1f})".format(*both))
        volumes = [f"{values[f'hypervolume, {anchor}']:.3f}".removeprefix("0") for anchor in ANCHORS]
        assert cells[4:] == [*volumes, str(values["models"])]


def test_the_row_of_one_long_path_says_what_was_recorded():
    """In the study of settings: models of exactly these sizes, beside the single trials of the study of epochs."""
    long = {(row["seed"], row["level"]): row for row in trained("settings_30", "start 6, interval 12")}
    cells = next(cells for name, *cells in rows("What one size costs") if name == LONG)
    ahead = {name: cells for name, *cells in rows("What one size costs", 1)}
    for cell, (level, share) in zip(cells, enumerate((50, 35, 20, 10), 2), strict=False):
        models = [long[seed, level] for seed in range(3)]
        assert [1 - one["macs_removed"] for one in models] == pytest.approx([share / 100] * 3, abs=0.005)
        assert cell == with_width(summary([one["val_accuracy"] for one in models]), 1)
        singles = sorted(trained("epochs", f"single to {share}%, 30 epochs"), key=lambda one: one["seed"])
        for kind, row in (("val", f"{LONG_AHEAD}, seed by seed"), ("test", "that on test")):
            both = ([one[f"{kind}_accuracy"] for one in some] for some in (models, singles))
            assert ahead[row][level - 2] == differences(*both)
    means = [
        statistics.mean(long[seed, level]["val_accuracy"] for level in (2, 3, 4, 5)) for seed in range(3)
    ]
    assert cells[4] == with_width(summary(means), 1)
    assert cells[5] == f"{statistics.mean(long[seed, 5]['train_cost'] for seed in range(3)):.1f}"


@pytest.mark.parametrize(("row", "single"), SINGLES.items())
def test_the_table_of_what_one_size_costs_says_what_was_recorded(row, single):
    recorded = record("study_epochs")
    levels = enumerate((50, 35, 20, 10), 2)
    models = [recorded[single.format(share=f"{share}%", level=level)] for level, share in levels]
    cells = next(cells for name, *cells in rows("What one size costs") if name == row)
    assert cells[:4] == [with_width(model["accuracy"], 1) for model in models]
    mean = statistics.mean(model["accuracy"]["mean"] for model in models)
    assert cells[4].startswith(f"{mean:.1f} ± ")
    if "polished" not in row:  # these share their path
        assert cells[5] == f"{sum(model['cost'] for model in models):.1f}"


def test_the_table_of_who_is_ahead_at_one_size_says_what_was_recorded():
    recorded = record("study_epochs")
    table = {name: cells for name, *cells in rows("What one size costs", 1)}
    printed = {name: cells[:4] for name, *cells in rows("What one size costs")}
    levels = list(enumerate((50, 35, 20, 10), 2))

    def seeds(name: str) -> list[list[float]]:
        models = [recorded[SINGLES[name].format(share=f"{share}%", level=level)] for level, share in levels]
        return [model["accuracy"]["seeds"] for model in models]

    single = seeds("four single trials of 30 epochs")
    polished = seeds("a path, 4 + 6, repaired, its four models polished")
    assert table["a repaired and polished path, against single trials of 30 epochs, seed by seed"] == [
        differences(*both) for both in zip(polished, single, strict=True)
    ]
    means = {
        "a path, against four single trials of the same cost": (
            "a path, 4 + 6",
            "four single trials, as dear as one path together",
        ),
        "single trials of 30 epochs, against a path": ("four single trials of 30 epochs", "a path, 4 + 6"),
        "single trials of 30 epochs, against a repaired path": (
            "four single trials of 30 epochs",
            "a path, 4 + 6, repaired",
        ),
    }
    for name, both in means.items():
        first, second = ([float(cell.split()[0]) for cell in printed[row]] for row in both)
        cells = [0.0 if cell == "level" else float(cell) for cell in table[name]]
        wanted = [one - two for one, two in zip(first, second, strict=True)]
        assert cells == pytest.approx(wanted, abs=0.11), name  # of rounded means


def test_the_table_of_differences_of_criteria_says_what_was_recorded():
    tests = record("study_criteria")["tests"]
    table = rows("Which criterion, on equal paths", 1)
    assert len(table) == 5
    for name, *cells in table:
        found = [
            next(
                t
                for t in tests
                if t["what"] == f"accuracy at {share}% of the MACs"
                and t["first"] == f"path, {name.strip('`')}"
            )
            for share in (50, 20, 10)
        ]
        printed = [f"{-test['difference']:.1f}".replace("-0.0", "0.0") for test in found]
        assert cells == [*printed, f"{min(test['p'] for test in found):.2f}"], name


def test_the_table_of_who_is_ahead_of_a_front_by_hand_says_what_was_recorded():
    sides = record("front_race")["sides"]
    names = {
        "steps, Taylor": "steps: taylor",
        "steps, magnitude": "steps: magnitude",
        "one cut per size": "one_shot",
    }
    table = rows("A front by hand", 1)
    assert len(table) == 2 * len(names)
    for name, *cells in table:
        kind, side = (
            ("test" if name.endswith(", on test") else "val"),
            sides[names[name.removesuffix(", on test")]],
        )
        keys = [f"{kind} accuracy at {share}% of the MACs" for share in (50, 35, 20, 10)]
        assert cells == [
            differences(sides["ours: t0000"][key]["seeds"], side[key]["seeds"]) for key in keys
        ], name


def test_the_table_of_who_is_ahead_after_45_minutes_says_what_was_recorded():
    sides, table = record("search_race")["sides"], rows("A search of 45 minutes", 1)
    assert [name for name, *_ in table] == ["paths, then polish", "paths, then polish, on test", "paths"]
    for name, *cells in table:
        kind, side = (
            ("test" if name.endswith(", on test") else "val"),
            sides[SEARCHED[name.removesuffix(", on test")]],
        )
        keys = [f"{kind} accuracy at {share}% of the MACs" for share in (50, 35, 20, 10)]
        assert [float(cell) for cell in cells] == pytest.approx(
            [side[key] - sides["peer"][key] for key in keys], abs=0.051
        ), name
    reached = record("search_race")
    for name, side in (("the peer's", "peer"), ("the single trials'", "singles")):
        cells = next(cells for first, *cells in rows("A search of 45 minutes", 2) if first == name)
        for cell, anchor in zip(cells, ANCHORS, strict=True):
            seconds = reached[f"paths reach the last hypervolume of {side}"][anchor]["seconds"]
            assert cell.startswith(f"after {seconds:,.0f} s")


def test_the_table_of_when_the_guide_overtakes_the_peer_says_what_was_recorded():
    reached = record("guide_race")["guide reach the last hypervolume of peer"]
    for name, *cells in rows("A search of 45 minutes", 4):
        for cell, anchor in zip(cells, ANCHORS, strict=True):
            found = reached[f"{anchor}, on test" if name == "on test" else anchor]
            cost = f"{found['training cost']:.0f}"
            assert (
                cell.removesuffix(" dense epochs)").rstrip(")") == f"after {found['seconds']:.0f} s ({cost}"
            )
    sides = record("guide_race")["sides"]
    ahead = [
        sides["guide"][f"val accuracy at {share}% of the MACs"]
        - sides["peer"][f"val accuracy at {share}% of the MACs"]
        for share in (50, 35, 20, 10)
    ]
    said = ", ".join(f"{points:.1f}" for points in ahead[:-1]) + f" and {ahead[-1]:.1f} points"
    assert f"by {said}" in RESULTS.read_text(encoding="utf-8")


#: Rows of the README's tables and those of docs/results.md: section and name.
FIRST_PAGE = {
    "one path with repaired cuts": ("A front by hand", "a path, repaired"),
    "the same, and each of the four models trained on for 12 epochs": (
        "What one size costs",
        "a path, 4 + 6, repaired, its four models polished",
    ),
    "one path of twice the length, with repaired cuts": ("What one size costs", LONG),
    "four single trainings, as dear as one path together": (
        "What one size costs",
        "four single trials, as dear as one path together",
    ),
    "four single trainings of 30 epochs": ("What one size costs", "four single trials of 30 epochs"),
    "torch-pruning by hand: steps by Taylor importance, a cycle after each": (
        "A front by hand",
        "steps, Taylor",
    ),
    "torch-pruning by hand: one cut per size, then fine-tuning": ("A front by hand", "one cut per size"),
}


def test_the_tables_of_the_readme_say_what_the_page_of_results_says():
    readme = ROOT / "README.md"
    table = {name: cells for name, *cells in rows("What is measured", 0, readme)}
    assert set(table) == {
        *FIRST_PAGE,
        "one path",
        "the best of 48 searched single trainings of 12 epochs, one search",
    }
    for name, (heading, row) in FIRST_PAGE.items():
        cells = next(cells for first, *cells in rows(heading) if first == row)
        assert table[name][:5] == [cell.split()[0] for cell in (*cells[:4], cells[-1])], name
    by_share = [[cell.split()[0] for cell in (row[1], row[4])] for row in rows("One path, three seeds")[:4]]
    ours, searched = zip(*by_share, strict=True)
    assert table["one path"][:4] == list(ours)
    assert table["the best of 48 searched single trainings of 12 epochs, one search"][:4] == list(searched)
    searches = {
        name: [cell.split()[0] for cell in cells[:4]] for name, *cells in rows("A search of 45 minutes")
    }
    guided = [[cell.split()[0] for cell in cells[:4]] for _, *cells in rows("A search of 45 minutes", 3)]
    found = [cells for _, *cells in rows("What is measured", 1, readme)]
    assert found == [searches["paths, then polish"], searches["peer"], *guided]
