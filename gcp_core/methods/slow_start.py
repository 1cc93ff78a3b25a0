"""``slow_start``: the rate of slow start, fast decay over every cycle of a path."""

from __future__ import annotations

from gcp_core.methods.base import Method


def slow_start() -> Method:
    """The learning rate of slow start, fast decay, over every cycle after a cut."""
    return Method(
        name="slow_start",
        does="After every event the learning rate rises slowly in stairs and then halves fast.",
        slots={"train.pace": "slow_start"},
        source="Jeddi, Shafiee, Wong: A Simple Fine-tuning Is All You Need: Towards Robust Deep Learning Via Adversarial "
        "Fine-tuning (arXiv 2012.13628)",
        read="the abstract; the stairs are those of a third party's schedule named after the paper",
        ours="The paper fine-tunes against attacks and prunes nothing. Its schedule as the recovery after a cut, "
        "stretched over a cycle, is our use; the constants are not the paper's own.",
        needs="train.schedule: cycles",
    )
