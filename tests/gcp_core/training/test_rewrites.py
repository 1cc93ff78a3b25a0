"""Rewritten networks in trials: what is paid, what leaves, who sees which network, what is refused."""

import dataclasses

import pytest
import torch
from torch import nn

from gcp_core.config import DataConfig, ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.cost import measure_cost
from gcp_core.errors import ConfigError, ModelError
from gcp_core.methods import with_method
from gcp_core.records.checkpoint import load_model
from gcp_core.rewrites import Gate, build_rewrite, gates_of
from gcp_core.rewrites.whitened import BatchWhitening, Settings
from gcp_core.training import run_trial
from gcp_core.training.epoch import build_optimizer
from gcp_core.training.evaluation import evaluate_folder
from gcp_core.training.polish import polish
from gcp_core.training.setup import build_setup, check_config
from gcp_core.training.state import State
from tests.gcp_core.training.interrupted import without_time

HERE = __name__
SINGLE = TrialConfig(
    data=DataConfig("digits", val_share=0.25, train_images=96), model=ModelConfig("vgg_tiny", width=0.125),
    train=TrainConfig(epochs=4, batch_size=32), prune=PruneConfig(target=0.4, min_channels=1),
)  # fmt: skip
PATH = dataclasses.replace(
    SINGLE, train=TrainConfig(batch_size=32, schedule="cycles"),
    prune=PruneConfig(start=1, interval=1, ratio=0.25, target=0.4, min_channels=1),
)  # fmt: skip
METHODS = pytest.mark.parametrize("method", ["bwcp", "consensus"])


def other(base=SINGLE, *, train=None, **prune):
    return dataclasses.replace(
        base,
        train=dataclasses.replace(base.train, **(train or {})),
        prune=dataclasses.replace(base.prune, **prune),
    )


# --- null = absent ------------------------------------------------------------------------------------------------


def test_a_rewrite_of_nothing_leaves_every_bit_as_it_is():
    config = other(criterion="l1", interval=1, ratio=0.2, until=3)
    plain = run_trial(config, latency=False)
    null = run_trial(other(config, train={"rewrite": "gcp_core.rewrites.none:none"}), latency=False)
    assert null.weights_sha256 == plain.weights_sha256
    assert without_time(null) == without_time(plain)
    assert null.finals["train_cost"] == plain.finals["train_cost"]
    assert [plan.removed for plan in null.plans] == [plan.removed for plan in plain.plans]


# --- what is paid -------------------------------------------------------------------------------------------------


@METHODS
def test_what_gates_add_to_training_is_charged_for_every_network_that_was_trained(method):
    """Path: the dense network for one epoch, then what is left for one epoch each, gates of their width included."""
    config = with_method(PATH, method)
    result, setup = run_trial(config), build_setup(config)
    assert setup.rewrite_macs > 0
    dense, total = setup.dense_cost.macs, 0.0
    added = [setup.rewrite_macs, *(plan.meta["rewrite_macs"] for plan in result.plans)]
    assert added == sorted(added, reverse=True)
    for row, more in zip(result.history, added, strict=True):
        total += row.metrics["cost/macs"] + more
    assert result.finals["train_cost"] == pytest.approx(total / dense)
    assert result.snapshots[0].finals["train_cost"] == pytest.approx(1 + setup.rewrite_macs / dense)


@METHODS
def test_costs_of_a_model_are_those_of_the_plain_network(method, tmp_path):
    config = with_method(PATH, method)
    result, setup = run_trial(config, checkpoint_dir=tmp_path), build_setup(config)
    plain = dataclasses.replace(
        config, train=dataclasses.replace(config.train, rewrite="none", penalty="none")
    )
    assert result.history[0].metrics["cost/macs"] == build_setup(other(plain, criterion="l1")).dense_cost.macs
    for snapshot in result.snapshots:
        cost = measure_cost(load_model(snapshot.folder), setup.example)
        assert (cost.macs, cost.params) == (snapshot.finals["macs"], snapshot.finals["params"])


# --- what leaves --------------------------------------------------------------------------------------------------


@METHODS
@pytest.mark.parametrize("base", [SINGLE, PATH], ids=["single", "path"])
def test_models_that_leave_are_plain_and_were_evaluated_as_they_are(method, base, tmp_path):
    result = run_trial(with_method(base, method), checkpoint_dir=tmp_path, latency=False)
    for folder, finals in [(s.folder, s.finals) for s in result.snapshots] or [
        (result.folder, result.finals)
    ]:
        model = load_model(folder)
        assert not any(isinstance(module, Gate) for module in model.modules())
        assert evaluate_folder(folder).accuracy == finals["val_accuracy"]
        assert evaluate_folder(folder, "test").accuracy == finals["test_accuracy"]


@METHODS
def test_a_snapshot_is_polished_as_the_plain_network_that_it_is(method, tmp_path):
    config = with_method(PATH, method)
    result = run_trial(config, checkpoint_dir=tmp_path)
    source = result.snapshots[1]
    done = polish(config, source.folder, 1, checkpoint_dir=tmp_path)
    model = load_model(done.model.folder)
    assert not any(isinstance(module, Gate) for module in model.modules())
    share = source.finals["macs"] / build_setup(config).dense_cost.macs
    # What it is polished for costs what the plain network costs.
    assert done.model.finals["train_cost"] == pytest.approx(source.finals["train_cost"] + share, rel=1e-12)


class Wrong(BatchWhitening):
    """Folds rightly what nobody has trained, and wrongly what somebody has."""

    def fold(self, model):
        trained = any(int(gate.norm.num_batches_tracked) for gate in gates_of(model))
        super().fold(model)
        if trained:
            with torch.no_grad():
                model.features[0].weight.mul_(-1)


def wrong():
    """A rewrite with a fault."""
    return Wrong(Settings(delta=-9.0))


@pytest.mark.parametrize(
    ("base", "prune"),
    [(SINGLE, {}), (SINGLE, {"clock": "interval", "interval": 2, "until": 2, "finish": False}), (PATH, {})],
    ids=["cut at the end", "cut in the middle", "path"],
)
def test_a_folded_model_that_computes_something_else_is_refused_and_nothing_is_written(base, prune, tmp_path):
    config = with_method(base, "bwcp")
    config = other(config, train={"rewrite": f"{HERE}:wrong"}, **prune)
    with pytest.raises(ModelError, match=r"train\.rewrite: the folded model's outputs differ by"):
        run_trial(config, checkpoint_dir=tmp_path, latency=False)
    assert not list(tmp_path.rglob("weights.pt"))
    assert not (tmp_path / "result.json").exists()


# --- who sees which network ---------------------------------------------------------------------------------------

SEEN = []


class Spy:
    """Scores by chance, and remembers what it was shown."""

    needs, comparable = "nothing", True

    def __init__(self, reads_gates=False):
        self.reads_gates = reads_gates

    def score(self, model, groups, batches, generator):
        SEEN.append(any(isinstance(module, Gate) for module in model.modules()))
        return {
            layer: torch.rand(size, generator=generator) for layer, size in groups.scored_layers().items()
        }


@pytest.mark.parametrize("reads", [True, False])
def test_only_who_says_so_is_shown_gates(reads):
    SEEN.clear()
    config = with_method(other(PATH, criterion=f"{HERE}:Spy", options={"reads_gates": reads}), "bwcp")
    assert config.prune.criterion == f"{HERE}:Spy"
    run_trial(config)
    assert SEEN
    assert set(SEEN) == {reads}


@pytest.mark.parametrize("criterion", ["frs", "taylor", "trace_ratio", "bn_scale"])
def test_any_criterion_works_on_the_folded_network(criterion):
    result = run_trial(other(PATH, train={"rewrite": "batch_whitening"}, criterion=criterion))
    assert result.ended == "target"


def test_a_repair_works_on_the_network_whose_gates_were_taken_off():
    result = run_trial(
        other(PATH, train={"rewrite": "batch_whitening"}, criterion="l1", repair="least_squares")
    )
    assert result.ended == "target"


# --- the optimiser ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_gates_parameters_are_a_group_of_their_own_before_and_after_a_cut(optimizer):
    config = with_method(PATH, "consensus")
    options = {"optimizer": optimizer, "weight_decay": 0.1, "rewrite_options": {"lr": 0.5}}
    config = other(config, train=options)
    state = State.fresh(build_setup(config))
    for _ in range(2):
        plain, own = state.optimizer.param_groups
        assert own["weight_decay"] == 0
        assert own["lr_factor"] == 0.5
        assert plain["weight_decay"] == 0.1
        held = {id(p) for group in state.optimizer.param_groups for p in group["params"]}
        assert held == {id(p) for p in state.model.parameters()}
        assert {id(p) for p in own["params"]} == {
            id(p) for gate in gates_of(state.model) for p in (gate.weight, gate.bias)
        }
        for parameter in state.model.parameters():
            parameter.grad = torch.ones_like(parameter)
        state.optimizer.step()
        assert {id(p) for p in state.optimizer.state} <= held
        state.cut(state.living.plan({"features.0": [0]}).with_meta(epoch=1))


def test_in_float16_new_gates_parameters_have_a_momentum_before_their_first_step():
    """Where the gradients of that step overflow, a momentum that is only then made is memory that nobody has written."""
    setup = build_setup(with_method(PATH, "consensus"))
    train = dataclasses.replace(setup.config.train, precision="fp16")  # which a CPU does not train in
    state = State.fresh(dataclasses.replace(setup, config=dataclasses.replace(setup.config, train=train)))
    for _ in range(2):
        for parameter in state.model.parameters():
            assert not state.optimizer.state[parameter]["momentum_buffer"].any()
        assert len(state.optimizer.state) == len(list(state.model.parameters()))
        state.cut(state.living.plan({"features.0": [0]}).with_meta(epoch=1))


def test_a_network_without_gates_parameters_has_one_group():
    model, rewrite = build_setup(SINGLE).new_model(), build_rewrite("batch_whitening")
    rewrite.install(model, torch.zeros(1, 1, 8, 8))
    assert len(build_optimizer(model, SINGLE.train, rewrite).param_groups) == 1


# --- once, at the end ---------------------------------------------------------------------------------------------


@METHODS
def test_a_single_trial_is_cut_once_after_its_last_epoch(method):
    result = run_trial(with_method(SINGLE, method), latency=False)
    assert [plan.meta["epoch"] for plan in result.plans] == [4]
    assert result.finals["target_reached"] == 1
    setup = build_setup(with_method(SINGLE, method))
    assert result.finals["train_cost"] == pytest.approx(4 * (1 + setup.rewrite_macs / setup.dense_cost.macs))


def test_by_the_threshold_exactly_the_closed_channels_go(monkeypatch):
    """On a network without ties; the floor of one unit is the one channel that a layer keeps open."""
    free = {"allocator": "threshold", "finish": False, "ratio": 1.0, "min_share": 0.0}
    train = {"epochs": 8, "rewrite_options": {"mask": "rounded"}}
    config = other(with_method(SINGLE, "bwcp"), train=train, **free, target=None)
    shut, lift = {}, State.lift

    def seen(state, epoch):
        for gate in gates_of(state.model):
            shut[gate.place.layer] = (~gate.mask()).nonzero().flatten().tolist()
        lift(state, epoch)

    monkeypatch.setattr(State, "lift", seen)
    result = run_trial(config, latency=False)
    (plan,) = result.plans
    assert 0 < plan.num_units < build_setup(config).groups.num_units
    assert {name: list(units) for name, units in plan.removed.items()} == {n: u for n, u in shut.items() if u}
    bounded = run_trial(other(config, target=0.1), latency=False)
    assert 0 < bounded.plans[0].num_units < plan.num_units


# --- bad input ----------------------------------------------------------------------------------------------------


def without_norms(num_classes, in_channels):
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, num_classes),
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: other(train={"rewrite": "batch_whitenin"}),
            "train.rewrite: 'batch_whitenin' is unknown (did you mean",
        ),
        (lambda: other(train={"rewrite": ""}), "train.rewrite: '' is not a rewrite's name"),
        (
            lambda: other(train={"rewrite": "batch_whitening", "rewrite_options": {"group": 32}}),
            "train.rewrite_options.group: 32 is more than 16",
        ),
        (
            lambda: dataclasses.replace(
                with_method(SINGLE, "bwcp"), model=ModelConfig(f"{HERE}:without_norms")
            ),
            "train.rewrite: the network has no batch norm that gates can stand at",
        ),
        (
            lambda: other(criterion="gate_mean"),
            "prune.criterion: 'gate_mean' reads gates, but the network is trained",
        ),
        (
            lambda: other(train={"penalty": "consensus"}),
            "train.penalty: 'consensus' is about gates, but the network",
        ),
        (
            lambda: other(with_method(PATH, "network_adjustment"), train={"rewrite": "batch_whitening"}),
            "train.rewrite: 'batch_whitening' cannot follow layers that grow",
        ),
        (
            lambda: other(allocator="threshold", criterion="l1"),
            "prune.allocator: 'threshold' compares scores with a fixed value",
        ),
        (
            lambda: other(allocator="threshold", criterion="active_probability", normalise="max"),
            "prune.allocator: 'threshold' compares scores with a fixed value",
        ),
        (
            lambda: other(
                allocator="threshold", criterion="active_probability", allocator_options={"at": "half"}
            ),
            "prune.allocator_options.at: 'half' is not a number",
        ),
        (lambda: other(PATH, clock="end"), "prune.clock: 'end' has no meaning with train.schedule: cycles"),
    ],
)
def test_what_cannot_work_is_refused_before_training(make, message):
    with pytest.raises(ConfigError) as caught:
        check_config(make())
    assert message in str(caught.value)
