"""The axes of the parallel coordinates name every value as the page's script finds it in the models."""

import json

import pandas as pd
import pytest

from analysis.show import report
from tests.analysis.show import tables


def said(value) -> str:
    """What JavaScript's ``String`` makes of a value from JSON."""
    return value if isinstance(value, str) else json.dumps(value)


@pytest.mark.parametrize("dtype", ["boolean", "object"])
def test_an_axis_of_a_yes_or_no_has_the_values_of_the_models(tmp_path, dtype):
    df = tables.paths(tmp_path)
    finish = {"t0000": True, "t0001": False}
    df["prune.finish"] = pd.array([finish.get(trial) for trial in df["trial"]], dtype=dtype)
    data = json.loads(report.html(df).split('id="data">')[1].split("</script>")[0])
    axes = {axis["name"]: axis["values"] for axis in data["parallel"]}
    assert axes["prune.finish"] == ["false", "true"]
    for name in ("prune.finish", "prune.criterion"):
        values = [model["config"][name] for model in data["trials"] if name in model["config"]]
        assert {said(value) for value in values} == set(axes[name])
