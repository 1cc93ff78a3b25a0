"""What leaves the house: a model as a torch.export program, as ONNX or for OpenVINO, checked before it is called done.

All are made from a copy on the CPU in eval mode, take any batch size, and are written under a temporary name, read
back, compared with the model on random images and only then renamed: the path holds a file that works, or what it
held before.
"""

from __future__ import annotations

import copy
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gcp_core.cost import fit_to_model
from gcp_core.cost.latency import onnx_forward, openvino_forward
from gcp_core.errors import GcpError, first_line
from gcp_core.extras import missing
from gcp_core.pruning.padding import pad_widths
from gcp_core.records.durable import flush

#: Largest difference to the model, relative to its largest logit.
TOLERANCE = 1e-5
#: Batch sizes that are compared; neither is the one the graph was recorded with.
CHECKED_BATCHES = (1, 3)
_RECORDED_BATCH = 2


class ExportError(GcpError):
    """A model that cannot be exported, or whose exported form computes something else."""


@dataclass(frozen=True)
class Exported:
    """A file that was written and checked.

    Attributes:
        path: the file.
        error: largest difference to the model over the checked batches, relative to the largest logit.
        grown: group -> units before and after padding; ``left``: what kept its width, and why.
    """

    path: Path
    error: float
    grown: dict[str, tuple[int, int]] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)


def export_program(model: nn.Module, example: Tensor, path: str | Path, *, multiple: int = 1) -> Exported:
    """Write a ``torch.export`` program (``.pt2``) with a free batch size; ``torch.export.load(path)`` reads it.

    Args:
        example: ``(N, C, H, W)``; only its shape and type matter.
        multiple: pad widths up to a multiple of this first (1 = as they are; see :mod:`gcp_core.pruning.padding`).

    Raises:
        ExportError: the model cannot be exported, or the program does not compute what the model computes.
    """

    def write(ready: nn.Module, images: Tensor, file: Path) -> None:
        torch.export.save(_program(ready, images), file)

    return _export(model, example, Path(path), multiple, write, program_forward)


def program_forward(path: str | Path) -> Callable[[Tensor], Tensor]:
    """The model in a file of :func:`export_program`, as a function of a CPU tensor ``(N, C, H, W)``.

    Raises:
        ExportError: there is no such file, or it holds no exported program.
    """
    try:
        return torch.export.load(path).module()
    except Exception as exc:  # a missing, cut or foreign file raises one of many kinds
        raise ExportError(f"cannot be read as an exported program: {first_line(exc)}", str(path)) from exc


@torch.no_grad()
def run_program(path: str | Path, images: Tensor) -> Tensor:
    """What the program in ``path`` computes for ``images`` ``(N, C, H, W)``; see :func:`program_forward`."""
    return program_forward(path)(images)


def export_onnx(model: nn.Module, example: Tensor, path: str | Path, *, multiple: int = 1) -> Exported:
    """Write an ONNX file with input ``images``, output ``logits`` and a free batch size; checked with onnxruntime.

    Args:
        example: ``(N, C, H, W)``; only its shape and type matter.
        multiple: pad widths up to a multiple of this first; 8 often makes a pruned model several times faster.

    Raises:
        ExportError: the extra ``onnx`` is not installed, the model cannot be exported, or onnxruntime's results are
            further than :data:`TOLERANCE` from the model's.
    """
    _need("ONNX export", path, "onnx")

    def write(ready: nn.Module, images: Tensor, file: Path) -> None:
        program = torch.onnx.export(
            _program(ready, images),
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=_free_batch(),
            verbose=False,
        )
        if program is None:  # what torch says of its old exporter
            raise ExportError("torch returned no program", str(path))
        program.save(file, external_data=False)

    return _export(model, example, Path(path), multiple, write, onnx_forward)


def export_int8(onnx_path: str | Path, batches: Iterable[Tensor], path: str | Path) -> Path:
    """Write an ONNX file with weights and activations of 8 bits, from one in float32; input and output stay float32.

    Ranges of the activations are the smallest and largest values that ``batches`` give; weights have a scale per
    output channel. The loss in accuracy is not checked here: it must be measured.

    Args:
        onnx_path: a file of :func:`export_onnx`.
        batches: normalised images ``(N, C, H, W)``; a few hundred, similar to those the model will see.

    Raises:
        ExportError: the extra ``onnx`` is not installed, or onnxruntime cannot quantise the file.
    """
    _need("quantisation", path, "onnx")
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        """Hands the batches over one by one."""

        def __init__(self) -> None:
            self.rows = ({"images": batch.contiguous().numpy()} for batch in batches)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.rows, None)

    target = Path(path)
    with _appears_whole(target) as temporary, tempfile.TemporaryDirectory() as work, _quiet():
        prepared = Path(work) / "prepared.onnx"
        try:
            quant_pre_process(str(onnx_path), str(prepared), skip_symbolic_shape=True)
            quantize_static(str(prepared), str(temporary), Reader(), per_channel=True)
            onnx_forward(temporary)
        except GcpError:
            raise
        except Exception as exc:  # onnxruntime raises many kinds; all of them mean the same to the user
            raise ExportError(f"cannot be quantised: {first_line(exc)}", str(onnx_path)) from exc
    return target


def export_openvino(model: nn.Module, onnx_path: str | Path, path: str | Path) -> float:
    """Write ``path`` (``.xml``) and its weights beside it (``.bin``), in float32, with a free batch size.

    Args:
        model: what the file must compute.
        onnx_path: a file of :func:`export_onnx` of that model.

    Returns:
        The largest difference to the model over the checked batches, relative to the largest logit.

    Raises:
        ExportError: the extra ``openvino`` is not installed, OpenVINO cannot read the model, or computes something else.
    """
    _need("OpenVINO export", path, "openvino")
    import openvino

    target = Path(path)
    try:
        found = openvino.convert_model(str(onnx_path))
        sizes = [None if size.is_dynamic else size.get_length() for size in found.inputs[0].partial_shape]
        openvino.save_model(found, str(target), compress_to_fp16=False)
    except Exception as exc:  # its errors are plain RuntimeErrors
        raise ExportError(f"OpenVINO cannot take it: {first_line(exc)}", str(onnx_path)) from exc
    image = torch.empty(1, *[size or 1 for size in sizes[1:]])
    plain, forward = copy.deepcopy(model).cpu().eval(), openvino_forward(target)
    error = max(_difference(plain, forward, _random(image, size)) for size in CHECKED_BATCHES)
    if not error <= TOLERANCE:
        target.unlink()
        target.with_suffix(".bin").unlink(missing_ok=True)
        raise ExportError(
            f"the exported model differs from the model by {error:.1e} of its largest logit (allowed: {TOLERANCE:g})",
            str(path),
        )
    return error


def _need(what: str, path: str | Path, extra: str) -> None:
    package, hint = missing(extra)
    if package:
        raise ExportError(f"{what} needs {package}", str(path), hint)


def _free_batch() -> tuple[dict[int, torch.export.Dim]]:
    return ({0: torch.export.Dim("batch", min=1)},)


def _program(model: nn.Module, images: Tensor) -> torch.export.ExportedProgram:
    return torch.export.export(model, (images,), dynamic_shapes=_free_batch())


def _export(
    model: nn.Module,
    example: Tensor,
    path: Path,
    multiple: int,
    write: Callable[[nn.Module, Tensor, Path], None],
    read: Callable[[Path], Callable[[Tensor], Tensor]],
) -> Exported:
    plain = copy.deepcopy(model).cpu().eval()
    image = fit_to_model(example, plain)
    with torch.no_grad():
        kind = type(plain(image)).__name__
    if kind != "Tensor":
        raise ExportError(
            f"{type(model).__name__} returns a {kind} in eval mode, not one tensor",
            str(path),
            "export a module that returns the logits",
        )
    ready, grown, left = plain, {}, {}
    if multiple != 1:
        padded = pad_widths(plain, image, multiple)
        ready, grown, left = padded.model, padded.grown, padded.left
    with _appears_whole(path) as temporary:
        try:
            with _quiet(), torch.no_grad():
                write(ready, _random(image, _RECORDED_BATCH), temporary)
                forward = read(temporary)
        except GcpError:
            raise
        except Exception as exc:  # exporters raise many kinds; all of them mean the same to the user
            raise ExportError(
                f"{type(model).__name__} cannot be exported: {first_line(exc)}", str(path)
            ) from exc
        error = max(_difference(plain, forward, _random(image, size)) for size in CHECKED_BATCHES)
        if not error <= TOLERANCE:
            raise ExportError(
                f"the exported model differs from the model by {error:.1e} of its largest logit "
                f"(allowed: {TOLERANCE:g}); nothing was written",
                str(path),
            )
    return Exported(path, error, grown, left)


def _random(image: Tensor, batch: int) -> Tensor:
    rng = torch.Generator().manual_seed(batch)
    return torch.randn((batch, *image.shape[1:]), generator=rng, dtype=image.dtype)


@torch.no_grad()
def _difference(model: nn.Module, forward: Callable[[Tensor], Tensor], images: Tensor) -> float:
    wanted, got = model(images), forward(images)
    if wanted.shape != got.shape:
        return float("inf")
    scale = wanted.abs().max().clamp_min(torch.finfo(wanted.dtype).tiny)
    return float((wanted - got).abs().max() / scale)


@contextmanager
def _appears_whole(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its name if the block succeeds, and goes if it does not."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    except OSError as exc:
        raise ExportError(f"cannot write there: {exc}", str(path)) from exc
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        flush(temporary)
        # mkstemp makes files that only their owner may read; an export is meant to be passed on.
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters warn about their own internals; what matters to the user is checked afterwards."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
