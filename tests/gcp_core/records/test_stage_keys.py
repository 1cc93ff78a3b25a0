"""Equal key => equal weights: whatever decides about a trial's weights is in the key under which they are shared."""

import dataclasses
import importlib
import itertools
import shutil
import sys
from importlib.metadata import EntryPoint, EntryPoints

import pytest
import torch

from gcp_core import slots
from gcp_core.config import DataConfig, ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.groups import find_groups
from gcp_core.models import build_model
from gcp_core.penalties import PENALTIES
from gcp_core.pruning.surgery import apply_plan
from gcp_core.records import own_code
from gcp_core.records.stages import course_after_events, repair_of, stage_key, trunk_key
from gcp_core.repairs import REPAIRS
from gcp_core.rewrites import REWRITES
from gcp_core.schedule.paces import PACES
from gcp_core.training import run_trial
from tests.oracles.sweeps.remembering import Remembering, states_in_common

BASE = TrialConfig(
    data=DataConfig("digits", val_share=0.25, train_images=96),
    model=ModelConfig("vgg_tiny", width=0.125),
    train=TrainConfig(epochs=3, batch_size=32),
    prune=PruneConfig(criterion="frs", interval=1, ratio=0.4, target=0.35, until=2),
)
#: Path -> another value. Every field of the four parts is here or in _LEFT_OUT.
_OTHER = {
    "data.val_share": 0.3,
    "data.val_images": 300,
    "data.train_images": 90,
    "data.split_seed": 1,
    "data.augment": "none",
    "data.crop_padding": 2,
    "data.streaming": True,
    "data.memory_gib": 1.0,
    "data.workers": 0,
    "model.name": "tests.gcp_core.records.test_stage_keys:two_layers",
    "model.width": 0.25,
    "train.epochs": 4,
    "train.batch_size": 16,
    "train.lr": 0.05,
    "train.optimizer": "adamw",
    "train.momentum": 0.8,
    "train.nesterov": True,
    "train.weight_decay": 1e-3,
    "train.schedule": "constant",
    "train.warmup": 0.5,
    "train.milestones": (0.4,),
    "train.gamma": 0.5,
    "train.label_smoothing": 0.1,
    "train.precision": "bf16",
    "train.channels_last": False,
    "train.compile": "auto",
    "train.tf32": True,
    "train.deterministic": True,
    "train.processes": 2,
    "train.eval_images": 50,
    "prune.criterion": "l1",
    "prune.start": 2,
    "prune.interval": 2,
    "prune.ratio": 0.3,
    "prune.count": 5,
    "prune.target": 0.2,
    "prune.of": "params",
    "prune.until": 1,
    "prune.residual": "inner",
    "prune.scoring_images": 20,
    "prune.min_channels": 3,
    "prune.min_share": 0.3,
    "prune.exclude": ("features.0",),
    "prune.round_to": 2,
    "prune.normalise": "max",
    "prune.cost_power": 1.0,
    "prune.allocator": "uniform",
    "prune.finish": True,
    "prune.options": {"winsorise": 0.9},
    "prune.repair": "tests.oracles.fillings:HalfRemoved",
    "prune.clock": "tests.oracles.fillings:EveryOther",
    "prune.method": "gcp",
    "train.penalty": "tests.oracles.fillings:Remembered",
    "train.rewrite": "batch_whitening",
    "seed": 1,
}
_LEFT_OUT = {
    "data.name": "another set",
    "data.path": "needs files",
    "data.download": "needs a network",
    "data.image_size": "of image folders and parquet files",
    "data.channels": "of image folders and parquet files",
    "model.weights": "not its name is in the key but what the file holds, see below",
    "train.device": "needs a GPU",
    "train.sync_norms": "only with several processes: tests/gcp_core/training/team/test_team.py",
    "prune.hidden_count": "vgg_tiny has no hidden linear layer",
    **{
        f"{slot}_options": "only with what fills the slot: tests/gcp_core/training/test_slots.py"
        for slot in ("prune.allocator", "prune.repair", "prune.clock", "train.penalty", "train.rewrite")
    },
}


def two_layers(num_classes, in_channels, width):
    from torch import nn

    channels = int(64 * width)
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes),
    )  # fmt: skip


def changed(path):
    part, _, name = path.partition(".")
    if not name:
        return dataclasses.replace(BASE, **{part: _OTHER[path]})
    more = {"ratio": None} if path == "prune.count" else {}
    return dataclasses.replace(
        BASE, **{part: dataclasses.replace(getattr(BASE, part), **{name: _OTHER[path]}, **more)}
    )


def test_every_field_is_tried_or_left_out_for_a_reason():
    parts = {"data": DataConfig, "model": ModelConfig, "train": TrainConfig, "prune": PruneConfig}
    fields = {f"{part}.{f.name}" for part, cls in parts.items() for f in dataclasses.fields(cls)}
    later = {f for f in fields if f.split(".")[1] in NOT_IN_SINGLE_TRIALS}
    assert fields - later | {"seed"} == set(_OTHER) | set(_LEFT_OUT)


#: Fields that only paths have; tests/gcp_core/training/paths/test_path_sharing.py tries those.
NOT_IN_SINGLE_TRIALS = {"restart", "pace", "ratio_of", "levels"}


@pytest.fixture(scope="module")
def trained():
    """Path of what was changed -> (key -> weights) of that trial's stages."""
    found = {}
    for path in ["", *_OTHER]:
        store = Remembering()
        run_trial(BASE if not path else changed(path), stages=store, latency=False)
        found[path] = store.seen
    return found


def test_equal_keys_have_equal_weights(trained):
    assert states_in_common(trained) > 100, "otherwise nothing was compared"


def test_what_changes_the_weights_of_the_first_epoch_changes_its_key(trained):
    """The converse where it is easy to see: a difference in training or data shares nothing at all."""
    for path in ("train.lr", "train.precision", "data.augment", "seed", "model.width", "train.epochs"):
        assert not set(trained[""]) & set(trained[path]), path


def test_initial_weights_are_in_the_key_by_what_they_are_and_not_by_where_they_are(tmp_path):
    found, copy = {}, tmp_path / "copy.pt"
    for name, file in (("one", tmp_path / "a.pt"), ("other", tmp_path / "a.pt"), ("copy", copy)):
        if file == copy:
            shutil.copy(tmp_path / "a.pt", copy)
        else:
            torch.manual_seed(len(found))
            torch.save(build_model("vgg_tiny", 10, 1, 0.125).state_dict(), file)
        store = Remembering()
        model = dataclasses.replace(BASE.model, weights=str(file))
        run_trial(dataclasses.replace(BASE, model=model), stages=store, latency=False)
        found[name] = store.seen
    assert not set(found["one"]) & set(found["other"])
    assert set(found["copy"]) == set(found["other"])
    assert states_in_common(found) == 3


@pytest.mark.parametrize("name", ["resnet20", "torchvision:resnet18"])
def test_the_same_units_of_the_same_groups_are_another_state_in_another_residual_mode(name):
    """A group of a stage's stream in ``coupled`` is cut in all blocks; in ``scatter`` one conv is."""
    example = torch.zeros(1, 3, 32, 32)
    model = build_model(name, 10, 3, 0.25) if name == "resnet20" else build_model(name, 10)
    plans = {}
    for mode in ("coupled", "scatter", "inner"):
        groups = find_groups(model, example, residual=mode)
        for group in groups.groups:
            plans.setdefault(group.name, {})[mode] = groups.plan({group.name: [0]}).with_meta(epoch=1)
    compared = 0
    for modes in plans.values():
        for one, other in itertools.combinations(modes, 2):
            same = _after(name, example, modes[one]) == _after(name, example, modes[other])
            equal_keys = stage_key("trunk", [modes[one]], 2) == stage_key("trunk", [modes[other]], 2)
            assert equal_keys == same, (modes[one].removed, one, other)
            compared += not same
    assert compared, "some group is cut differently in two modes"


def _after(name, example, plan):
    """Names and shapes of the model's tensors after the plan."""
    model = build_model(name, 10, 3, 0.25) if name == "resnet20" else build_model(name, 10)
    apply_plan(model, plan)
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def test_the_processor_is_in_the_key(monkeypatch):
    device = torch.device("cpu")
    here = trunk_key(BASE, "data", device)
    assert trunk_key(BASE, "data", device) == here
    assert trunk_key(dataclasses.replace(BASE, threads=2), "data", device) != here
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another")
    assert trunk_key(BASE, "data", device) != here


OWN = "own_filling:build"
#: Slot -> what a trial is that fills it with this name.
FILLED = {
    "model": lambda name: dataclasses.replace(BASE, model=ModelConfig(name)),
    "penalty": lambda name: dataclasses.replace(BASE, train=TrainConfig(penalty=name)),
    "rewrite": lambda name: dataclasses.replace(BASE, train=TrainConfig(rewrite=name)),
    "pace": lambda name: TrialConfig(
        train=TrainConfig(schedule="cycles", pace=name), prune=PruneConfig(start=1)
    ),
    "repair": lambda name: dataclasses.replace(BASE, prune=PruneConfig(repair=name)),
}


@pytest.fixture
def keys_of(tmp_path, monkeypatch):
    """The keys of a trial whose code lies in ``tmp_path``, as another process finds them: nothing of it is imported."""
    monkeypatch.syspath_prepend(tmp_path)

    def forget():
        own_code._digest_of.cache_clear()
        importlib.invalidate_caches()
        for name in [name for name in sys.modules if name.startswith("own_filling")]:
            del sys.modules[name]

    def keys(config):
        forget()
        trunk = trunk_key(config, "data", torch.device("cpu"))
        return [trunk, course_after_events(config), repair_of(config)]

    yield keys
    forget()


@pytest.mark.parametrize("slot", FILLED)
def test_the_code_that_a_user_fills_a_slot_with_is_in_the_key(slot, tmp_path, keys_of):
    """Somebody corrects it between two runs of a sweep: what the first one shared is of the other code."""
    keys = []
    for number in (1, 2, 1):
        (tmp_path / "own_filling.py").write_text(f"def build(): return {number}")
        keys.append(keys_of(FILLED[slot](OWN)))
    assert keys[0] == keys[2] != keys[1]


@pytest.mark.parametrize("slot", [slot for slot in FILLED if slot != "model"])
def test_so_is_the_code_that_an_installed_package_has_registered(slot, tmp_path, keys_of, monkeypatch):
    group = {"penalty": "gcp_core.penalties"}.get(slot, f"gcp_core.{slot}s")
    entries = EntryPoints([EntryPoint("mine", OWN, group)])
    monkeypatch.setattr(slots, "entry_points", lambda group: entries.select(group=group))
    keys = []
    for number in (1, 2, 1):
        (tmp_path / "own_filling.py").write_text(f"def build(): return {number}")
        keys.append(keys_of(FILLED[slot]("mine")))
    assert keys[0] == keys[2] != keys[1]


#: Files of networks of one's own: ``parts`` is a folder without ``__init__.py``, as many are.
_NETS = {
    "own_filling_nets/__init__.py": "from own_filling_nets.resnet import build",
    "own_filling_nets/resnet.py": "from own_filling_nets.parts.blocks import number\ndef build(): return number",
    "own_filling_nets/parts/blocks.py": "number = 1",
    "own_filling.py": "from own_filling_nets import build",
}


@pytest.mark.parametrize("name", ["own_filling_nets:build", "own_filling_nets.resnet:build", OWN])
def test_the_code_behind_a_name_is_where_it_is_written_with_the_package_around_it(name, tmp_path, keys_of):
    """A package may re-export what it has in other files, another module may do so once more."""
    for file, text in _NETS.items():
        (tmp_path / file).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / file).write_text(text)
    config = FILLED["model"](name)
    first = keys_of(config)
    for file, text in _NETS.items():
        (tmp_path / file).write_text(f"{text}  # corrected")
        unused = file == "own_filling.py" and name != OWN
        assert (keys_of(config) == first) == unused, file
        (tmp_path / file).write_text(text)
    (tmp_path / "own_filling_nets" / "notes.txt").write_text("No code.")
    (tmp_path / "own_filling_other.py").write_text("number = 2")
    assert keys_of(config) == first


def test_a_module_s_neighbours_count_behind_folders_without_code_too(tmp_path, keys_of):
    package = tmp_path / "own_filling_far"
    (package / "src" / "nets").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    text = "from own_filling_far.src.nets.blocks import number\ndef build(): return number"
    (package / "src" / "nets" / "net.py").write_text(text)
    keys = []
    for number in (1, 2, 1):
        (package / "src" / "nets" / "blocks.py").write_text(f"number = {number}")
        keys.append(keys_of(FILLED["model"]("own_filling_far.src.nets.net:build")))
    assert keys[0] == keys[2] != keys[1]


def test_a_file_of_a_user_s_package_that_nobody_can_read_is_no_traceback(tmp_path, keys_of):
    """An editor's lock is a link that leads nowhere."""
    (tmp_path / "own_filling").mkdir()
    (tmp_path / "own_filling" / "__init__.py").write_text("def build(): return 1")
    first = keys_of(FILLED["model"](OWN))
    (tmp_path / "own_filling" / ".#blocks.py").symlink_to("nobody@nowhere.1")
    assert keys_of(FILLED["model"](OWN)) == first
    (tmp_path / "own_filling" / "blocks.py").symlink_to("nobody@nowhere.1")
    assert keys_of(FILLED["model"](OWN)) != first


@pytest.mark.parametrize(
    ("name", "registry"),
    [
        ("resnet20", None),
        ("gcp_core.models.vgg:build_vgg", None),
        ("scale_and_shift", PENALTIES),
        ("batch_whitening", REWRITES),
        ("slow_start", PACES),
        ("least_squares", REPAIRS),
        ("gcp_core.penalties.norms:scale_and_shift", PENALTIES),
        ("unknown", PENALTIES),
    ],
)
def test_what_this_package_has_is_not_a_user_s_code(name, registry):
    """:func:`gcp_core.records.stages.code_digest` is in every key already."""
    assert own_code.own_code(name, registry) == []
