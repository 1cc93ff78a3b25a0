"""The model card says how the model was trained, in the words of its configuration."""

import pandas as pd
import pytest

from analysis.ship.card import model_card
from tests.analysis.synthetic import config_for


def line_of(start: str, /, manifest: dict | None = None, **prune) -> str:
    """The line of a single trial's card that starts so."""
    changed = manifest or {}
    manifest = {
        "config": config_for(**prune).to_dict(), "image_size": [8, 8], "in_channels": 1, "num_classes": 10,
        "class_names": list(range(10)), "mean": [0.5], "std": [0.25], "sha256": "ab", "data_digest": "cd", "torch": "2",
        "device": "cpu", "plans": [], **changed,
    }  # fmt: skip
    measured = ("val_accuracy", "test_accuracy", "macs", "params", "dense_latency_ms")
    proof = dict.fromkeys(measured, 1.0) | {"place": "here"}
    for name in (
        "latency_ms",
        "latency_low_ms",
        "latency_high_ms",
        "latency_share",
        "latency_share_low",
        "latency_share_high",
    ):
        proof[name] = 1.0
    row = pd.Series({"model": "t0000", "sweep": "s", "run_id": "r", "config_id": "c", "seed": 0})
    card = model_card(row, manifest, proof, (), "")
    (line,) = (line for line in card.splitlines() if line.startswith(start))
    return line


def pruning_line(**prune) -> str:
    """What the card says about the pruning."""
    return line_of("- pruning:", **prune)


def test_the_card_says_which_logit_is_which_class_also_where_classes_have_no_names():
    named = line_of("Output:", {"num_classes": 2, "class_names": ["cat", "dog"]})
    assert named == "Output: logits (N, 2) for cat, dog."
    nameless = line_of("Output:", {"class_names": []})
    assert nameless == "Output: logits (N, 10) for the classes 0 to 9, which have no names in the data."


@pytest.mark.parametrize(("target", "said"), [(0.75, "target 75 % of macs"), (None, "no target")])
def test_the_target_stands_on_the_card_and_so_does_that_there_is_none(target, said):
    line = pruning_line(interval=21, count=120, target=target)
    assert line == (f"- pruning: criterion `frs`, every 21 epochs 120 units, {said}, residual mode `coupled`")


@pytest.mark.parametrize(
    ("prune", "said"),
    [
        ({"clock": "end", "ratio": 0.5}, "once, after the last epoch, 0.5 of the units, target 50 % of macs"),
        ({"interval": 1, "ratio": 0.2}, "every epoch 0.2 of the units, target 50 % of macs"),
        ({"clock": "density_saturated", "count": 8}, "whenever the clock `density_saturated` says so 8 units, "
         "target 50 % of macs"),
        # What `select --write-config --from-scratch` writes.
        ({"start": 0, "until": 0, "ratio": 1.0, "target": 0.62, "allocator": "given"},
         "once, before the first epoch, at most 1 of the units, by the allocator `given`, target 62 % of macs"),
    ],
)  # fmt: skip
def test_the_card_says_when_the_events_were_and_who_said_how_much(prune, said):
    assert pruning_line(**prune) == f"- pruning: criterion `frs`, {said}, residual mode `coupled`"
