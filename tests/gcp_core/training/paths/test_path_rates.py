"""The learning rates of a path, step by step, and the paces that set them."""

import pytest
import torch

from gcp_core.errors import ConfigError
from gcp_core.training import run_trial, sharing
from gcp_core.training.setup import check_config
from tests.oracles.rates import slow_rates
from tests.oracles.small_paths import path


def rates_set(monkeypatch, config):
    """The rate of the optimiser at each of its steps, over the peak rate."""
    seen, real = [], torch.optim.SGD.step

    def step(self, *args, **kwargs):
        assert len(self.param_groups) == 1
        seen.append(self.param_groups[0]["lr"] / config.train.lr)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    result = run_trial(config)
    return seen, result


@pytest.mark.parametrize(("start", "interval", "restart"), [(2, 2, 0.8), (3, 1, 1.0)])
def test_the_optimiser_has_the_rates_of_the_page_at_every_step(monkeypatch, start, interval, restart):
    config = path(start=start, interval=interval, train={"restart": restart})
    seen, result = rates_set(monkeypatch, config)
    cycles = len(result.snapshots) - 1
    assert cycles == 3
    assert seen == pytest.approx(slow_rates(start, interval, cycles, 3, 0.25, restart), abs=1e-12)


def test_the_optimiser_follows_slow_start_and_a_pace_of_ones_own(monkeypatch):
    seen, _ = rates_set(monkeypatch, path(interval=4, train={"pace": "slow_start"}, target=0.3))
    # Twelve steps of a cycle on ten stairs: steps 0 and 1 on the first, 6 and 7 on the sixth.
    stairs = [0.2, 0.2, 0.4, 0.6, 0.8, 1, 0.5, 0.5, 0.25, 0.125, 0.0625, 0.03125]
    assert seen[6:] == pytest.approx([0.8 * stair for stair in stairs])
    own = path(train={"pace": "tests.gcp_core.schedule.test_paces:halving"}, target=0.5)
    seen, _ = rates_set(monkeypatch, own)
    assert seen[6:] == pytest.approx([0.4] * 6 + [0.2] * 6)


@pytest.mark.parametrize(
    ("name", "value"), [("too_high", "2.0"), ("no_number", "nan"), ("below_zero", "-0.5")]
)
def test_a_pace_that_gives_no_share_is_refused_before_anything_is_trained(monkeypatch, name, value):
    monkeypatch.setattr(sharing, "train_epoch", lambda *_: pytest.fail("trained"))
    config = path(train={"pace": f"tests.gcp_core.schedule.test_paces:{name}"})
    for check in (check_config, run_trial):
        with pytest.raises(ConfigError) as caught:
            check(config)
        assert caught.value.where == "train.pace"
        assert f"gave {value} at step" in caught.value.message


def test_an_unknown_pace_is_refused_before_anything_is_trained():
    with pytest.raises(ConfigError, match=r"train\.pace: 'lineer' is unknown"):
        check_config(path(train={"pace": "lineer"}))
