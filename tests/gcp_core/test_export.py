"""Exported models: they compute the same for any batch size, and a file is whole or absent."""

import sys

import pytest
import torch
from torch import nn

from gcp_core import export
from gcp_core.cost.latency import onnx_forward, openvino_forward
from gcp_core.export import (
    ExportError,
    export_int8,
    export_onnx,
    export_openvino,
    export_program,
    run_program,
)
from gcp_core.groups import find_groups
from gcp_core.pruning.selection import Budget, select_channels
from gcp_core.pruning.surgery import apply_plan
from tests.oracles.nets import own_net, random_scores

EXAMPLE = torch.zeros(1, 3, 16, 16)


def pruned(name: str, residual: str) -> nn.Module:
    model = own_net(name, 0.5).float()
    groups = find_groups(model, EXAMPLE, residual=residual)
    apply_plan(model, select_channels(random_scores(groups), groups, Budget(ratio=0.3)))
    return model


def images(number: int) -> torch.Tensor:
    return torch.randn(number, 3, 16, 16, generator=torch.Generator().manual_seed(number))


def difference(model: nn.Module, forward, x: torch.Tensor) -> float:
    model.eval()
    with torch.no_grad():
        return float((model(x) - forward(x)).abs().max() / model(x).abs().max())


@pytest.fixture(scope="module")
def scattered() -> nn.Module:
    return pruned("resnet20", "scatter")


def test_a_padded_scatter_program_takes_any_batch_and_leaves_the_model_as_it_was(scattered, tmp_path):
    scattered.train()
    before = {name: tensor.clone() for name, tensor in scattered.state_dict().items()}
    result = export_program(scattered, EXAMPLE, tmp_path / "deep" / "net.pt2", multiple=4)
    assert scattered.training
    assert all(torch.equal(before[name], tensor) for name, tensor in scattered.state_dict().items())
    assert result.error <= 1e-5
    assert result.grown
    assert result.left == {"fc": "its channels are the model's output"}

    def program(x):
        return run_program(result.path, x)

    assert [difference(scattered, program, images(n)) <= 1e-5 for n in (1, 2, 7)] == [True] * 3
    assert [file.name for file in result.path.parent.iterdir()] == ["net.pt2"]


def test_a_padded_scatter_onnx_file_takes_any_batch_in_onnxruntime(scattered, tmp_path):
    result = export_onnx(scattered, EXAMPLE, tmp_path / "net.onnx", multiple=4)
    assert result.error <= 1e-5
    forward = onnx_forward(result.path)
    assert [difference(scattered, forward, images(n)) <= 1e-5 for n in (1, 2, 7)] == [True] * 3
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]


def test_an_openvino_file_computes_what_the_model_computes_for_any_batch(tmp_path):
    pytest.importorskip("openvino")
    model = pruned("vgg_tiny", "coupled")
    made = export_onnx(model, EXAMPLE, tmp_path / "net.onnx")
    assert export_openvino(model, made.path, tmp_path / "net.xml") <= 1e-5
    forward = openvino_forward(tmp_path / "net.xml")
    assert [difference(model, forward, images(n)) <= 1e-5 for n in (1, 2, 7)] == [True] * 3
    assert {file.name for file in tmp_path.iterdir()} == {"net.onnx", "net.xml", "net.bin"}
    other = own_net("vgg_tiny", 0.25, seed=1).float()
    with pytest.raises(ExportError, match="differs from the model by"):
        export_openvino(other, made.path, tmp_path / "other.xml")
    assert not (tmp_path / "other.xml").exists()


def test_a_file_in_8_bits_is_close_to_the_model_where_it_was_calibrated(tmp_path):
    model = pruned("vgg_tiny", "coupled")
    made = export_onnx(model, EXAMPLE, tmp_path / "net.onnx")
    small = export_int8(made.path, [images(32), images(33)], tmp_path / "net.int8.onnx")
    forward = onnx_forward(small)
    assert [difference(model, forward, images(n)) < 0.2 for n in (32, 7)] == [True] * 2
    assert difference(model, forward, images(32)) > 1e-5
    assert {file.name for file in tmp_path.iterdir()} == {"net.onnx", "net.int8.onnx"}
    with pytest.raises(ExportError, match="cannot be quantised"):
        export_int8(tmp_path / "none.onnx", [images(2)], tmp_path / "other.onnx")
    assert not (tmp_path / "other.onnx").exists()


def test_without_openvino_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ExportError, match=r"OpenVINO export needs openvino .*gcp-sweep\[openvino\]"):
        export_openvino(own_net("vgg_tiny"), tmp_path / "net.onnx", tmp_path / "net.xml")


def test_without_the_extra_onnx_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ExportError, match=r"ONNX export needs onnxscript .*gcp-sweep\[onnx\]"):
        export_onnx(own_net("vgg_tiny"), EXAMPLE, tmp_path / "net.onnx")


def test_an_export_that_computes_something_else_is_refused_and_the_old_file_stays(monkeypatch, tmp_path):
    model = own_net("vgg_tiny", 0.25).float()
    other = own_net("vgg_tiny", 0.25, seed=1).float().eval()
    recorded = export._program
    monkeypatch.setattr(export, "_program", lambda _, x: recorded(other, x))
    path = tmp_path / "net.pt2"
    path.write_text("the old file")
    with pytest.raises(ExportError, match=r"differs from the model by .* nothing was written"):
        export_program(model, EXAMPLE, path)
    assert path.read_text() == "the old file"
    assert [file.name for file in tmp_path.iterdir()] == ["net.pt2"]


class Branching(nn.Module):
    """What it computes depends on values, which no graph can hold."""

    def forward(self, x):
        return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))


def test_a_model_that_cannot_be_exported_is_named_and_leaves_no_file(tmp_path):
    with pytest.raises(ExportError, match=r"net\.pt2: Branching cannot be exported: "):
        export_program(Branching(), EXAMPLE, tmp_path / "net.pt2")
    assert list(tmp_path.iterdir()) == []


class Pair(nn.Module):
    """Two outputs."""

    def forward(self, x):
        return x, x


def test_a_model_with_several_outputs_is_refused(tmp_path):
    with pytest.raises(ExportError, match=r"net\.onnx: Pair returns a tuple in eval mode, not one tensor"):
        export_onnx(Pair(), EXAMPLE, tmp_path / "net.onnx")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match=r"net\.pt2: cannot write there"):
        export_program(own_net("vgg_tiny", 0.25), EXAMPLE, tmp_path / "file" / "net.pt2")


@pytest.mark.parametrize("content", [None, b"PK not a program"])
def test_a_file_that_is_no_program_is_named(content, tmp_path):
    path = tmp_path / "net.pt2"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ExportError, match=r"net\.pt2: cannot be read as an exported program: "):
        run_program(path, EXAMPLE)
