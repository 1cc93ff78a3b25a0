"""The comparison page and its figures."""

import re

import pandas as pd
import pytest

from analysis.evidence import compare
from analysis.show import compare_page
from tests.analysis.evidence.tables import runs, two_methods, with_baselines


def test_two_sides_that_made_the_same_models_have_a_page_without_a_map_of_their_differences(tmp_path):
    one = runs([("a", 0, 90.0, 50.0), ("b", 0, 80.0, 20.0)]).assign(**{"prune.criterion": "frs"})
    other = one.assign(**{"prune.criterion": "l1", "model": ["t0002", "t0003"], "trial": ["t0002", "t0003"]})
    both = pd.concat([one, other], ignore_index=True)
    both.attrs = one.attrs
    df = with_baselines(both, 96.0, 100.0)
    found = compare.compare(df, "prune.criterion", equal="trials")
    written = compare_page.write(df, "prune.criterion", found, [], tmp_path / "page")
    assert found.tests[0].difference == 0.0
    assert not [file for file in written.files if file.stem.startswith("difference_")]
    assert "hypervolume_seeds" in {file.stem for file in written.files}
    assert found.tests[0].verdict in written.page.read_text()


@pytest.mark.usefixtures("rendered")
def test_the_comparison_page_says_what_is_real_and_what_is_open_and_every_figure_has_its_csv(tmp_path):
    df = two_methods(2.0, seeds=6)
    found = compare.compare(df, "prune.criterion", equal="epochs")
    paired = compare.paired_tests(df, "prune.criterion")
    written = compare_page.write(df, "prune.criterion", found, paired, tmp_path / "page")
    text = written.page.read_text()
    real, rest = text.split("<h2>Real differences</h2>")[1].split("<h2>What these data cannot decide</h2>")
    assert found.tests[0].verdict in real
    assert "Nothing: every difference was decided." in rest
    pictures = {file.stem for file in written.files if file.suffix == ".png"}
    assert pictures == {"hypervolume_seeds", "pairs", "growth", "attainment", "difference_good_poor"}
    for name in pictures:
        assert (tmp_path / "page" / f"{name}.csv").stat().st_size > 0, name
        assert (tmp_path / "page" / f"{name}.svg").stat().st_size > 500
    assert "<script" not in text
    # Of the figures only those of attainment are not at the cost that the page names.
    assert text.count("Not at equal cost: all models of each side count.") == 2
    links = re.findall(r'(?:href|src)="([^"]+)"', text)
    assert all(link.startswith("data:") or (tmp_path / "page" / link).is_file() for link in links)
    assert len(pd.read_csv(tmp_path / "page" / "tests.csv")) == 2
