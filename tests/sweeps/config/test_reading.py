from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from gcp_core.errors import ConfigError
from sweeps.config.reading import flatten, merge, parse_overrides, parse_yaml, read_tree, to_yaml

SCALARS = [
    ("1e-3", 0.001),
    ("5E4", 50000.0),
    ("1.0e-3", 0.001),
    (".5", 0.5),
    ("-2", -2),
    ("010", 10),
    ("off", "off"),
    ("no", "no"),
    ("yes", "yes"),
    ("true", True),
    ("null", None),
    ("~", None),
    ("1e", "1e"),
    ("0.1.2", "0.1.2"),
    ("cifar10", "cifar10"),
    ("'1'", "1"),
]


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_a_scalar_means_what_yaml_1_2_says(text: str, value: object) -> None:
    parsed = parse_yaml(text, "x")
    assert parsed == value
    assert type(parsed) is type(value)


def test_what_is_written_is_read_as_it_was_in_this_dialect_and_in_pyyamls_own() -> None:
    """A sweep's own config.yaml is what ``gcp-sweep run`` is given to continue it."""
    texts = ["08", "45e7012", "1e3", "010", "off", "true", "null", "2026-01-01", "12:30", "plain"]
    tree = {"name": "08", "texts": texts, "others": [1, 1.0, 1e-05, 1e16, True, None]}
    for read in (parse_yaml(to_yaml(tree), "x"), yaml.safe_load(to_yaml(tree))):
        assert read == tree
        assert list(map(type, read["others"])) == list(map(type, tree["others"]))
    assert list(parse_yaml(to_yaml({"b": 1, "a": 2}), "x")) == ["b", "a"]


def test_a_syntax_error_names_line_and_column(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("train:\n  lr: [1, 2\n")
    with pytest.raises(ConfigError, match=r"bad\.yaml: not valid YAML: line 3, column 1"):
        read_tree(file)


def test_a_key_given_twice_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "twice.yaml"
    file.write_text("seed: 1\nseed: 2\n")
    with pytest.raises(ConfigError, match=r"line 2, column 1: key 'seed' is given twice"):
        read_tree(file)


def test_a_section_may_take_over_another_one_and_what_is_written_there_counts() -> None:
    text = "a: &a {lr: 0.1, epochs: 4}\nb:\n  <<: *a\n  lr: 0.2\n"
    assert parse_yaml(text, "x")["b"] == {"lr": 0.2, "epochs": 4}
    with pytest.raises(ConfigError, match="key 'lr' is given twice"):
        parse_yaml(text + "  lr: 0.3\n", "x")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot read the config file: No such file"):
        read_tree(tmp_path / "nowhere.yaml")


def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "list.yaml"
    file.write_text("- 1\n")
    with pytest.raises(ConfigError, match="holds list, not a mapping"):
        read_tree(file)


def test_overrides_hold_yaml_values_ranges_included() -> None:
    assert parse_overrides(["train.lr=1e-3", "prune.ratio={low: 0.1, high: 0.4}", "tracking.uri="]) == {
        "train.lr": 0.001,
        "prune.ratio": {"low": 0.1, "high": 0.4},
        "tracking.uri": None,
    }


def test_an_override_without_an_equals_sign_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"command line: 'train\.lr' is not of the form key\.path=value"):
        parse_overrides(["train.lr"])


def test_merging_sets_paths_replaces_ranges_and_leaves_the_original_alone() -> None:
    tree = {"prune": {"ratio": {"low": 0.1, "high": 0.4}}}
    assert merge(tree, {"prune.ratio": 0.2, "train.lr": 0.1}) == {
        "prune": {"ratio": 0.2},
        "train": {"lr": 0.1},
    }
    assert merge(tree, {"prune.ratio.high": 0.3}) == {"prune": {"ratio": {"low": 0.1, "high": 0.3}}}
    assert tree == {"prune": {"ratio": {"low": 0.1, "high": 0.4}}}


def test_a_path_through_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"seed\.low: cannot be set: seed is 3, not a section"):
        merge({"seed": 3}, {"seed.low": 1})


def test_numbers_and_text_of_other_libraries_become_pythons_own() -> None:
    """As in a notebook: ``for lr in np.linspace(...): sweeps.run(config, {"train.lr": lr})``."""
    given = {"seed": np.int64(3), "train": {"lr": np.float64(0.1)}, "name": np.str_("x")}
    merged = merge(given, {"train.milestones": (np.float64(0.5), 0.75), "search.share": np.True_})
    assert merged == {
        "seed": 3,
        "train": {"lr": 0.1, "milestones": [0.5, 0.75]},
        "name": "x",
        "search": {"share": True},
    }
    assert yaml.safe_load(yaml.safe_dump(merged)) == merged
    assert merged["search"]["share"] is True


def test_flatten_keeps_lists_and_empty_mappings_as_values() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": [1, 2]}, "e": {}}}) == {"a.b": 1, "a.c.d": [1, 2], "a.e": {}}
