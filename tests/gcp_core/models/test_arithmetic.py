"""Training in TF32 or float16 only where it is asked for, everything else in float32, and switches that are put back."""

import dataclasses
import math
import os
import runpy

import pytest
import torch

from gcp_core.config import ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.criteria.base import Checked
from gcp_core.errors import ConfigError
from gcp_core.models import arithmetic
from gcp_core.models.arithmetic import float32_products, repeatable
from gcp_core.steps.step import PlainStep
from gcp_core.training import evaluation, run_trial
from gcp_core.training.epoch import train_epoch
from gcp_core.training.setup import build_setup
from gcp_core.training.state import State

CUDA = torch.device("cuda", 0)
SMALL = TrialConfig(
    model=ModelConfig("vgg_tiny", 0.125),
    train=TrainConfig(epochs=2),
    prune=PruneConfig(criterion="l1", interval=1, ratio=0.2, target=0.2, until=1),
)


def switches() -> list[str]:
    """Of convolutions and products: a GPU's, then a CPU's."""
    b = torch.backends
    parts = (b.cudnn.conv, b.cudnn.rnn, b.cuda.matmul, b.mkldnn.conv, b.mkldnn.matmul)
    return [part.fp32_precision for part in parts]


def test_products_are_float32_for_a_while_and_whatever_they_were_afterwards():
    before = switches()
    with float32_products():
        assert switches() == ["ieee"] * 5
        with float32_products(tf32=True):
            assert switches() == ["tf32"] * 3 + ["ieee"] * 2
        assert switches() == ["ieee"] * 5
    assert switches() == before
    with pytest.raises(ZeroDivisionError), float32_products():
        1 / 0  # noqa: B018
    assert switches() == before


def test_torch_can_read_its_older_switches_meanwhile():
    """Compilers do, and torch refuses where old and new ones do not agree."""
    for tf32 in (False, True):
        with float32_products(tf32):
            assert torch.backends.cuda.matmul.allow_tf32 is tf32
            assert torch.backends.cudnn.allow_tf32 is tf32
            assert torch.get_float32_matmul_precision() == ("high" if tf32 else "highest")
    assert torch.backends.cuda.matmul.allow_tf32 is False
    assert torch.backends.cudnn.allow_tf32 is True


@pytest.mark.parametrize("tf32", [False, True])
def test_only_steps_are_in_tf32_and_only_where_that_is_asked_for(monkeypatch, tf32):
    seen: dict[str, set[str]] = {}

    def noting(owner, name, what):
        real = getattr(owner, name)

        def wrapped(*args, **kwargs):
            seen.setdefault(what, set()).add(torch.backends.cudnn.conv.fp32_precision)
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, wrapped)

    noting(PlainStep, "work", "step")
    noting(Checked, "judge", "score")
    noting(evaluation, "evaluation_batches", "evaluate")
    run_trial(dataclasses.replace(SMALL, train=dataclasses.replace(SMALL.train, tf32=tf32)))
    assert seen == {"step": {"tf32" if tf32 else "ieee"}, "score": {"ieee"}, "evaluate": {"ieee"}}


@pytest.mark.parametrize(
    ("before", "after"), [(None, ":4096:8"), (":16:8", ":16:8")], ids=["unset", "the user's own"]
)
def test_repeatable_products_are_asked_for_before_torch_can_do_one(monkeypatch, before, after):
    """torch reads it at a process's first product, whoever does that: a trial that comes to ask may come too late."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    if before is not None:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", before)
    runpy.run_path(arithmetic.__file__)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == after


def test_repeatable_kernels_are_chosen_for_a_while():
    with repeatable(True, CUDA):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.deterministic
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.deterministic
    for wanted, device in ((False, CUDA), (True, torch.device("cpu"))):
        with repeatable(wanted, device):
            assert not torch.are_deterministic_algorithms_enabled()


def test_an_operation_without_a_repeatable_kernel_is_named():
    said = (
        "adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation, but you set "
        "'torch.use_deterministic_algorithms(True)'. You can turn off determinism just for this operation."
    )
    with pytest.raises(ConfigError) as caught, repeatable(True, CUDA):
        raise RuntimeError(said)
    assert str(caught.value).startswith(
        "train.deterministic: adaptive_avg_pool2d_backward_cuda does not have"
    )
    assert "You can" not in str(caught.value)
    with pytest.raises(RuntimeError, match="another"), repeatable(True, CUDA):
        raise RuntimeError("another error")
    assert not torch.are_deterministic_algorithms_enabled()


def test_float16_is_refused_on_a_cpu():
    config = dataclasses.replace(SMALL, train=TrainConfig(precision="fp16", device="cpu"))
    with pytest.raises(ConfigError) as caught:
        run_trial(config)
    assert (
        str(caught.value) == "train.precision: 'fp16': a CPU trains in float32 or bf16 (fp32, bf16, or a GPU)"
    )


@pytest.fixture
def float16(monkeypatch):
    """A set-up whose training is scaled as in float16 and computes in bf16, which a CPU can."""
    monkeypatch.setitem(arithmetic.HALVES, "fp16", torch.bfloat16)
    setup = build_setup(SMALL.baseline())
    train = dataclasses.replace(SMALL.train, precision="fp16")
    return dataclasses.replace(setup, config=dataclasses.replace(setup.config, train=train))


def epoch(state: State, number: int) -> float:
    return train_epoch(state.model, state.optimizer, state.setup, number, steps=state.steps)


def test_what_scales_float16_goes_on_after_a_resume(float16):
    whole, first, second = (State.fresh(float16) for _ in range(3))
    for state in (whole, first):
        state.steps.scaler.load_state_dict({**state.steps.scaler.state_dict(), "growth_interval": 7})
        epoch(state, 1)
    saved = first.tensors()
    assert saved["scaler"]["scale"] > 2**16  # has grown
    second.load(saved, "here")
    assert epoch(whole, 2) == epoch(second, 2)
    assert whole.steps.scaler.state_dict() == second.steps.scaler.state_dict()
    pairs = zip(whole.model.state_dict().values(), second.model.state_dict().values())
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_first_step_that_overflows_is_left_out_and_leaves_no_momentum(float16):
    state = State.fresh(float16)
    state.steps.scaler.load_state_dict({**state.steps.scaler.state_dict(), "scale": math.inf})
    before = [parameter.detach().clone() for parameter in state.model.parameters()]
    step = state.steps.begin(state.model, state.optimizer, float16.config.train)
    step.begin([[0.1]])
    step(*next(float16.epoch_batches(1)))
    step.end()
    assert all(torch.equal(a, b) for a, b in zip(before, state.model.parameters()))
    momenta = [kept["momentum_buffer"] for kept in state.optimizer.state.values()]
    assert len(momenta) == len(before)
    assert not any(momentum.any() for momentum in momenta)


def test_keys_of_trials_are_as_they_were_unless_one_of_the_new_switches_is_set():
    identity = TrialConfig().identity()["train"]
    assert not {"tf32", "deterministic", "compile"} & identity.keys()
    keys = {TrialConfig(train=TrainConfig(**{name: True})).key() for name in ("tf32", "deterministic")}
    assert len(keys | {TrialConfig().key()}) == 3
    with pytest.raises(ConfigError, match=r"train\.tf32: 'yes' is not true or false"):
        TrainConfig(tf32="yes")
