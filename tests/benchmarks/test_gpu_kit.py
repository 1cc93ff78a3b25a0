"""The GPU kit goes on from call to call; its pieces run in full with ``make gpu KIT=--smoke``."""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from benchmarks.gpu import checks, evidence, images, kit, speed
from gcp_core.records.results import TrialResult


def call(monkeypatch, tmp_path, *more):
    monkeypatch.setattr(sys, "argv", ["kit.py", "--smoke", "--work", str(tmp_path), *more])
    kit.main()


def test_what_has_its_record_is_passed_over_and_what_is_left_goes_on(monkeypatch, tmp_path, capsys):
    calls = []

    def quick(asked):
        calls.append("quick")
        return {"ms": 1.0}

    def long(asked):
        calls.append("long")
        return {"left": ["second"] if calls.count("long") == 1 else []}

    def late(asked):
        calls.append("late")
        if calls.count("late") == 1:
            raise kit.OutOfTime
        return {}

    monkeypatch.setattr(kit, "PIECES", {"quick": quick, "late": late, "long": long})
    call(monkeypatch, tmp_path)
    assert "left: late, long; call it again" in capsys.readouterr().out
    assert not (tmp_path / "records" / "late.json").exists()
    call(monkeypatch, tmp_path)
    assert "nothing is left" in capsys.readouterr().out
    assert calls == ["quick", "late", "long", "late", "long"]
    record = json.loads((tmp_path / "records" / "quick.json").read_text())
    assert record["results"]["ms"] == 1.0
    assert record["environment"]["torch"] == torch.__version__
    call(monkeypatch, tmp_path, "--again", "quick")
    assert calls[-1] == "quick"


def test_a_piece_goes_on_with_the_parts_it_has_not_measured(tmp_path):
    calls = []

    def call(minutes):
        asked = kit.Kit(True, None, tmp_path, time.monotonic() + 60 * minutes)

        def measured(name):
            calls.append(name)
            if name == "second":  # takes long
                object.__setattr__(asked, "deadline", time.monotonic() - 1)
            return {"ms": len(calls)}

        names = ("first", "second", "third")
        return asked.parts("step", {name: lambda name=name: measured(name) for name in names})

    assert call(1) == {"parts": {"first": {"ms": 1}, "second": {"ms": 2}}, "left": ["third"]}
    assert call(-1)["left"] == ["third"]
    assert call(1) == {"parts": {"first": {"ms": 1}, "second": {"ms": 2}, "third": {"ms": 3}}, "left": []}
    assert calls == ["first", "second", "third"]


def test_what_another_device_has_measured_is_not_mixed_with_what_this_one_does(monkeypatch, tmp_path):
    asked = kit.Kit(True, None, tmp_path, time.monotonic() + 60)
    assert asked.parts("step", {"first": lambda: 1})["parts"] == {"first": 1}
    assert asked.parts("step", {"first": lambda: 2})["parts"] == {"first": 1}, "it is not measured twice"
    monkeypatch.setattr(kit.Kit, "machine", "another GPU")
    assert asked.parts("step", {"first": lambda: 3})["parts"] == {"first": 3}


def test_after_its_minutes_no_piece_is_begun(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(kit, "PIECES", {"a": lambda asked: pytest.fail("it was begun")})
    call(monkeypatch, tmp_path, "--minutes", "-1")
    assert "left: a" in capsys.readouterr().out


def test_a_long_training_goes_on_in_the_next_call_as_if_it_had_not_been_cut_off(tmp_path):
    late = kit.Kit(True, None, tmp_path / "cut", time.monotonic() - 1)  # over after the first epoch
    whole = kit.Kit(True, None, tmp_path / "whole", time.monotonic() + 3600)
    title, config = next(iter(evidence.trainings(whole).items()))
    with pytest.raises(kit.OutOfTime):
        evidence._train(late, title, config)
    later = kit.Kit(True, None, tmp_path / "cut", time.monotonic() + 3600)

    def numbers(rows):
        return [{k: v for k, v in row.items() if k != "device_hours"} for row in rows]

    assert numbers(evidence._train(later, title, config)) == numbers(evidence._train(whole, title, config))


def test_a_path_without_a_model_is_named_with_its_status(monkeypatch, tmp_path):
    asked = kit.Kit(True, None, tmp_path, time.monotonic() + 60)
    title, path = next(iter(evidence.trainings(asked).items()))
    monkeypatch.setattr(evidence, "run_trial", lambda *_, **__: TrialResult("diverged", {}, (), ()))
    monkeypatch.setattr(evidence, "trainings", lambda asked: {title: path})
    assert evidence.evidence(asked) == {"models": {title: [{"status": "diverged"}]}, "left": []}


def test_every_event_that_is_timed_meets_the_whole_network(monkeypatch, tmp_path):
    seen = []

    def fresh(setup):
        return SimpleNamespace(model=None, optimizer=None, removed=0.0)

    def event(state, epoch):
        seen.append(state.removed)
        state.removed += 0.1

    monkeypatch.setattr(speed, "build_setup", lambda config: None)
    monkeypatch.setattr(speed, "State", SimpleNamespace(fresh=fresh))
    monkeypatch.setattr(speed, "train_epoch", lambda *_: sum(range(100_000)))
    monkeypatch.setattr(speed, "prune_event", event)
    speed._event(kit.Kit(True, None, tmp_path, time.monotonic() + 60), "resnet56")
    assert seen == [0.0, 0.0], "one to warm up, one that counts"


class Seen(torch.nn.Module):
    """A network that notes in which arithmetic it is used."""

    def __init__(self, net, seen):
        super().__init__()
        self.net, self.seen = net, seen

    def forward(self, x):
        if not self.training:
            self.seen.add(torch.backends.cudnn.conv.fp32_precision)
        return self.net(x)


def test_networks_with_and_without_their_units_are_compared_in_float32(monkeypatch, tmp_path):
    """TF32, cuDNN's own choice, would round the values of the two to either side."""
    seen = set()
    build = checks.build_model
    narrow = partial(build, width=0.25)
    monkeypatch.setattr(checks, "build_model", lambda name, classes: Seen(narrow(name, classes), seen))
    monkeypatch.setattr(checks, "find_groups", partial(unseen, seen, checks.find_groups))
    asked = kit.Kit(True, None, tmp_path, time.monotonic() + 60)
    assert checks._removed(asked, "resnet20", "coupled") <= checks.SAME
    assert seen == {"ieee"}


def unseen(seen, look, *args, **more):
    """Whatever arithmetic the layers are found in."""
    found = look(*args, **more)
    seen.clear()
    return found


def test_scores_are_timed_beside_forward_passes_in_float32(monkeypatch, tmp_path):
    seen = set()
    net = Seen(torch.nn.Identity(), seen)
    batches = type(
        "Batches", (), {"images": [1], "__iter__": lambda self: iter([(torch.zeros(1, 2), None)])}
    )()
    setup = SimpleNamespace(new_model=lambda: net, scorer=(None, batches))
    monkeypatch.setattr(speed, "build_setup", lambda config: setup)
    monkeypatch.setattr(speed, "feature_relevance_scores", lambda *args: None)
    speed._relevance(kit.Kit(True, None, tmp_path, time.monotonic() + 60), "resnet56")
    assert seen == {"ieee"}


def test_a_check_that_does_not_hold_fails_the_call(monkeypatch, tmp_path):
    monkeypatch.setattr(kit, "PIECES", {"checks": lambda asked: {"checks": {}, "holds": False}})
    with pytest.raises(SystemExit) as end:
        call(monkeypatch, tmp_path)
    assert end.value.code == 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["pruning"], "no such piece; there are checks, step"),
        (["--data", "nowhere"], "no cifar10.npz there; benchmarks/gpu/images.py makes it"),
    ],
)
def test_what_it_cannot_do_is_said_before_anything_runs(monkeypatch, tmp_path, capsys, more, said):
    with pytest.raises(SystemExit) as end:
        call(monkeypatch, tmp_path, *more)
    assert end.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "records").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_how_to_try_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["kit.py", "--work", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        kit.main()
    assert end.value.code == 2
    assert "torch sees no GPU; --smoke runs the kit in its smallest size" in capsys.readouterr().err


def test_images_are_packed_and_read_back(tmp_path):
    import numpy as np

    from gcp_core.config import DataConfig
    from gcp_core.errors import DataError

    raw = images.made(DataConfig("benchmarks.gpu.images:made", train_images=50))
    assert raw.train_images.shape == (100, 32, 32, 3)
    np.savez(tmp_path / images.FILE, **{name: getattr(raw, name) for name in images._ARRAYS})
    back = images.packed(DataConfig("benchmarks.gpu.images:packed", path=str(tmp_path)))
    assert back.digest == raw.digest
    with pytest.raises(DataError, match="cannot be read"):
        images.packed(DataConfig("benchmarks.gpu.images:packed", path=str(tmp_path / "nowhere")))
