from __future__ import annotations

import pytest

from gcp_core.errors import ConfigError
from sweeps.config.limits import parse_limit

FINALS = {
    "macs": 600.0, "accuracy_drop": 1.5, "val_accuracy": 93.0, "macs_removed": 0.4, "latency_share": 0.7,
}  # fmt: skip
BASELINE = {"macs": 1000.0, "val_accuracy": 94.5}

KEPT = [
    ("macs <= 600", 0.0),
    ("macs<=5e2", 100.0),
    ("macs <= 50%", 100.0),
    ("macs <= 70 %", -100.0),
    ("accuracy_drop <= 1", 0.5),
    ("val_accuracy >= 94", 1.0),
    ("val_accuracy >= 92.5", -0.5),
    ("macs_removed >= 0.5", 0.1),
    ("macs_removed >= 50%", 0.1),
    ("latency_share <= 80%", -0.1),
]


@pytest.mark.parametrize(("text", "excess"), KEPT)
def test_excess_is_positive_exactly_where_the_limit_is_broken(text: str, excess: float) -> None:
    assert parse_limit(text, "x").excess(FINALS, BASELINE) == pytest.approx(excess)


def test_a_limit_that_is_met_exactly_is_kept() -> None:
    finals = {"accuracy_drop": 97.4 - 97.1}
    assert finals["accuracy_drop"] > 0.3, "in binary"
    assert parse_limit("accuracy_drop <= 0.3", "x").excess(finals, None) <= 0


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ("macs <= 600", False),
        ("macs <= 50%", False),
        ("latency_ms <= 50%", True),
        ("accuracy_drop <= 1", True),
        ("macs_removed >= 50%", False),
        ("latency_share <= 80%", False),
    ],
)
def test_a_drop_and_a_share_of_what_must_be_measured_need_the_baseline(text: str, needed: bool) -> None:
    assert parse_limit(text, "x").needs_baseline() is needed


BAD = [
    ("macs < 5", "x: 'macs < 5' is not of the form NAME <= NUMBER"),
    ("macs <= many", "x: 'macs <= many' is not of the form"),
    ("mac <= 5", "x: 'mac' is unknown (did you mean \"macs\"?)"),
    ("macs <= 0.07", 'x: 0.07 macs is less than any network has (did you mean "macs <= 7%"?)'),
    ("params >= 1", 'x: 1 params is less than any network has (did you mean "params >= 1%"?)'),
    ("macs <= 50", 'x: 50 macs is less than any network has (did you mean "macs <= 50%"?)'),
    ("test_accuracy >= 5", "x: 'test_accuracy' is unknown"),
    ("accuracy_drop <= 5%", "x: accuracy_drop cannot be given as a share of the baseline"),
    ("macs_removed >= 50", 'x: 50 is above 1; macs_removed is a share (did you mean "macs_removed >= 50%"?)'),
    (
        "latency_share <= 50",
        'x: 50 is above 2; latency_share is a share (did you mean "latency_share <= 50%"?)',
    ),
    (
        "val_accuracy >= 0.9",
        'x: 0.9 is a share; accuracy is in per cent (did you mean "val_accuracy >= 90"?)',
    ),
    ("macs <= 1.2.3", "x: '1.2.3' is not a number"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_a_bad_limit_says_what_is_allowed(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_limit(text, "x")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "finals", "kept"),
    [
        ("latency_ms <= 2", {"latency_ms": 2.1, "latency_noise": 0.1}, True),  # may be 1.89
        ("latency_ms <= 2", {"latency_ms": 2.1, "latency_noise": 0.01}, False),
        ("latency_ms >= 2", {"latency_ms": 1.9, "latency_noise": 0.1}, True),
        # Half the time of the model beside it, whatever the baseline's process saw at its own time.
        ("latency_ms <= 50%", {"latency_ms": 3.0, "latency_share": 0.49, "latency_noise": 0.0}, True),
        ("latency_ms <= 50%", {"latency_ms": 1.0, "latency_share": 0.51, "latency_noise": 0.0}, False),
        ("latency_ms <= 50%", {"latency_ms": 1.0}, True),  # a runner that measures no share
        ("latency_share <= 0.5", {"latency_share": 0.52, "latency_noise": 0.05}, True),  # may be 0.494
        ("latency_share <= 0.5", {"latency_share": 0.52, "latency_noise": 0.01}, False),
    ],
)
def test_no_limit_on_latency_is_broken_by_noise(text, finals, kept) -> None:
    assert (parse_limit(text, "x").excess(finals, {"latency_ms": 4.0}) <= 0) is kept
