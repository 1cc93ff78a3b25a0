"""Steps that are recorded or compiled train as plain ones do, are made once per network, and fail softly.

There may be no GPU here. A recorder that keeps the work itself, and does it when it is played, stands for CUDA graphs: it
keeps what they ask for, namely that a recorded step reads its batch from memory that stays where it is.
"""

import copy
import logging
import weakref

import pytest
import torch
from torch import nn

from gcp_core.config import DataConfig, ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.data import load_splits
from gcp_core.errors import ConfigError
from gcp_core.steps import captured, choice
from gcp_core.steps.captured import WARM_UP, CapturedStep
from gcp_core.steps.choice import Steps, build_step, why_not_recorded
from gcp_core.steps.compiled import CompiledStep
from gcp_core.steps.step import PlainStep
from gcp_core.training import run_trial
from gcp_core.training.epoch import build_optimizer

#: The last batch of an epoch is smaller; an event after each of the first two epochs.
BATCH = 128
CONFIG = TrialConfig(
    data=DataConfig(augment="crop"),
    model=ModelConfig("vgg_tiny", 0.125),
    train=TrainConfig(epochs=3, batch_size=BATCH),
    prune=PruneConfig(criterion="l1", interval=1, ratio=0.2, target=0.4, until=2),
)


class Tape:
    """Notes what is asked of it."""

    def __init__(self) -> None:
        self.rehearsed = self.recorded = self.played = 0

    def rehearse(self, work) -> None:
        self.rehearsed += 1
        work()

    def record(self, work):
        self.recorded += 1

        def play() -> None:
            self.played += 1
            work()

        return play


def stepping(monkeypatch, make):
    """All networks are trained with the steps that ``make`` makes of plain ones; the list of those."""
    made = []

    def build(model, optimizer, train, penalty, scaler, *, rewritten, without):
        made.append((PlainStep if without else make)(model, optimizer, train, penalty, scaler))
        return made[-1]

    monkeypatch.setattr(choice, "build_step", build)
    return made


def test_a_trial_of_recorded_steps_has_the_weights_of_one_of_plain_steps(monkeypatch, alone):
    plain = alone(CONFIG)
    tape = Tape()
    made = stepping(monkeypatch, lambda *args: CapturedStep(PlainStep(*args), tape))
    played = run_trial(CONFIG)
    assert len(plain.plans) == 2
    assert played.weights_sha256 == plain.weights_sha256
    assert [row.metrics["train/loss"] for row in played.history] == [
        row.metrics["train/loss"] for row in plain.history
    ]
    # A network per event and the dense one: each is rehearsed, recorded once, and played with what is left of its epoch.
    full, rest = divmod(len(load_splits(CONFIG.data).train), BATCH)
    assert rest > 1
    assert len(made) == tape.recorded == 3
    assert tape.rehearsed == 3 * WARM_UP
    assert tape.played == 3 * (full - WARM_UP)


def test_a_step_is_kept_from_epoch_to_epoch_until_something_else_has_its_place_in_memory():
    config = TrialConfig(model=ModelConfig("vgg_tiny", 0.125), prune=None)
    train = config.train
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3))
    optimizer = build_optimizer(model, train)
    steps, batch = Steps(), (torch.randn(5, 4), torch.arange(5) % 3)

    def epoch():
        step = steps.begin(model, optimizer, train)
        step.begin([[0.1]])
        step(*batch)
        step.end()
        steps.end(model, optimizer)
        return step

    first = epoch()
    assert epoch() is first
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # other momenta
    second = epoch()
    assert second is not first
    model.load_state_dict(model.state_dict())  # in their place
    assert epoch() is second
    model[1].weight.data = model[1].weight.data.clone()
    third = epoch()
    assert third is not second
    model[0] = nn.Flatten()
    assert epoch() is not third


def test_a_step_that_cannot_be_recorded_runs_as_it_is_and_says_so_once(monkeypatch, caplog, alone):
    plain = alone(CONFIG)

    class Broken(Tape):
        def record(self, work):
            raise RuntimeError("operation not permitted when stream is capturing\nmore lines")

    made = stepping(monkeypatch, lambda *args: CapturedStep(PlainStep(*args), Broken()))
    with caplog.at_level(logging.WARNING, "gcp_core.steps"):
        result = run_trial(CONFIG)
    assert result.weights_sha256 == plain.weights_sha256
    assert [type(step) for step in made] == [CapturedStep, PlainStep, PlainStep]
    assert [record.getMessage() for record in caplog.records] == [
        "train.compile: this step cannot be recorded, it runs as it is: "
        "operation not permitted when stream is capturing"
    ]


def test_all_recordings_on_a_gpu_use_one_stream(monkeypatch):
    """A library keeps memory for every stream that it has worked on: an event should not cost some."""
    made = []
    captured._stream_on.cache_clear()
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: made.append(device) or object())
    try:
        devices = [torch.device("cuda", 0), torch.device("cuda", 0), torch.device("cuda", 1)]
        first, second, other = (captured.CudaGraphs(device) for device in devices)
        assert first._stream is second._stream is not other._stream
        assert made == [torch.device("cuda", 0), torch.device("cuda", 1)]
    finally:
        captured._stream_on.cache_clear()


class Counting:
    """A backend that compiles nothing and counts how often it is asked to."""

    def __init__(self) -> None:
        self.shapes = []

    def __call__(self, graph, inputs):
        self.shapes.append(
            [tuple(value.shape) for value in inputs if value.dim() == 4 and value.shape[1] == 1]
        )
        return graph.forward


def test_a_network_is_compiled_once_for_whole_batches_and_again_after_an_event(monkeypatch, alone):
    plain, backend = alone(CONFIG), Counting()
    made = stepping(monkeypatch, lambda *args: CompiledStep(*args, backend=backend))
    compiled = run_trial(CONFIG)
    assert len(made) == len(backend.shapes) == 3
    assert (BATCH, 1, 8, 8) in backend.shapes[0]
    assert compiled.weights_sha256 == plain.weights_sha256  # this backend changes no operation


def test_a_model_that_cannot_be_compiled_runs_as_it_is_and_says_so_once(monkeypatch, caplog, alone):
    """Dropout and batch norm go on as if nobody had tried."""

    def broken(graph, inputs):
        raise NotImplementedError("no such operation")

    plain = alone(CONFIG)
    stepping(monkeypatch, lambda *args: CompiledStep(*args, backend=broken))
    with caplog.at_level(logging.WARNING, "gcp_core.steps"):
        result = run_trial(CONFIG)
    assert result.weights_sha256 == plain.weights_sha256
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert said[0].startswith("train.compile: this model cannot be compiled, it runs as it is: ")


def test_a_first_pass_that_fails_half_way_leaves_no_trace_in_norms_and_random_numbers():
    """Compiled in two pieces of which the second fails: the first has moved the norm's statistics already."""

    class Halves(nn.Sequential):
        def forward(self, x):
            x = self[1](self[0](x))
            torch._dynamo.graph_break()
            return self[2](x.relu())

    failed = []

    def second_fails(graph, inputs):  # how many graphs the first half has is torch's to say
        if int(model[0].num_batches_tracked):
            failed.append(graph)
            raise NotImplementedError("the second half")
        return graph.forward

    torch.manual_seed(0)
    images, labels = torch.randn(6, 4), torch.arange(6) % 3
    train = TrainConfig(batch_size=6)
    found = []
    for make in (PlainStep, lambda *args: CompiledStep(*args, backend=second_fails)):
        torch.manual_seed(1)
        model = Halves(nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3))
        step = make(model, build_optimizer(model, train), train)
        step.begin([[0.1], [0.1]])
        for _ in range(2):
            step(images, labels)
        found.append([step.total, *model.state_dict().values()])
    assert len(failed) == 1, "after the norm had moved"
    assert all(torch.equal(a, b) for a, b in zip(*found))


def test_a_first_pass_that_fails_for_memory_has_given_it_back_before_the_second(monkeypatch):
    made, left = [], []

    class Much:
        pass

    def too_large(graph, inputs):
        def run(*args):
            much = Much()
            made.append(weakref.ref(much))
            raise torch.OutOfMemoryError("CUDA out of memory")

        return run

    def gradients(self, *batch, plain=PlainStep.gradients):
        left.append([one() for one in made])
        return plain(self, *batch)

    monkeypatch.setattr(PlainStep, "gradients", gradients)
    model, train = nn.Linear(4, 3), TrainConfig(batch_size=6)
    step = CompiledStep(model, build_optimizer(model, train), train, backend=too_large)
    step.begin([[0.1]])
    step(torch.randn(6, 4), torch.arange(6) % 3)
    assert left == [[], [None]]


def test_on_a_cpu_auto_is_a_plain_step():
    config = TrialConfig(model=ModelConfig("vgg_tiny", 0.125), prune=None)
    model = nn.Linear(2, 2)
    for asked, kind in (("off", PlainStep), ("auto", PlainStep), ("inductor", CompiledStep)):
        train = TrainConfig(compile=asked)
        assert type(build_step(model, build_optimizer(model, config.train), train)) is kind
    again = build_step(model, build_optimizer(model, train), train, without=frozenset({"compile"}))
    assert type(again) is PlainStep


def test_what_keeps_something_from_step_to_step_in_python_is_not_recorded():
    class Counts:
        def after_step(self, model):
            pass

    assert why_not_recorded(None, False) == ""
    assert why_not_recorded(None, True) == "modules of train.rewrite may do something else in every step"
    assert why_not_recorded(Counts(), False) == "train.penalty keeps something from step to step"


def test_compile_is_part_of_what_a_trial_is_only_where_it_is_set():
    default = TrialConfig()
    assert "compile" not in default.identity()["train"]
    assert TrialConfig(train=TrainConfig(compile="off")).key() == default.key()
    assert TrialConfig(train=TrainConfig(compile="auto")).key() != default.key()
    with pytest.raises(ConfigError, match=r"train\.compile: 'on' is unknown"):
        TrainConfig(compile="on")
