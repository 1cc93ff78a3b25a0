"""Which parameters a sweep searched: those in which its finished models differ, ``null`` included."""

import pandas as pd

from analysis.runs.table import as_words, varying


def finished(sweep: str = "s", **columns: list) -> pd.DataFrame:
    """A table of finished trials with these columns; ``prune__method`` is ``prune.method``."""
    rows = {name.replace("__", "."): values for name, values in columns.items()}
    return pd.DataFrame(rows).assign(sweep=sweep, candidate=True)


def test_null_is_a_value_that_was_searched():
    assert varying(finished(prune__method=[None, "gcp"], prune__of=["macs", "macs"])) == ["prune.method"]
    numbers = pd.array([None, 2, 2], dtype="Int64")
    assert varying(finished(prune__start=numbers)) == ["prune.start"]
    assert varying(finished(prune__method=[None, None])) == []


def test_a_sweep_that_is_older_than_a_key_did_not_search_it():
    old, new = (
        finished("old", prune__clock=[None, None]),
        finished("new", prune__clock=["interval", "interval"]),
    )
    assert varying(pd.concat([old, new], ignore_index=True)) == []


def test_an_option_that_only_one_criterion_has_was_not_searched():
    options = {"prune__options.read": ["branch", None], "prune__criterion": ["frs", "l1"]}
    assert varying(finished(**options)) == ["prune.criterion"]
    assert varying(finished(**{"prune__options.read": ["branch", "sum", None]})) == ["prune.options.read"]


def test_words_of_a_missing_value_are_those_of_a_config():
    for values in (["gcp", None], ["gcp", float("nan")], pd.array(["gcp", pd.NA], dtype="string")):
        assert as_words(pd.Series(values)).tolist() == ["gcp", "null"]
    assert as_words(pd.Series([True, None], dtype="boolean")).tolist() == ["True", "null"]
