"""The names that everything is logged under."""

from gcp_core.schema import FINALS, PER_EPOCH


def test_no_run_can_have_more_than_24_metric_keys():
    """A trial's run may hold everything there is: a value per epoch of each, and each final once."""
    keys = [*PER_EPOCH, *(final.key for final in FINALS.values())]
    assert len(set(keys)) == len(keys) <= 24
