"""Run in a fresh process: rebuild a model from its files, measure it again, export it, compare the export.

``python -m analysis.ship.prove MODEL_FOLDER WORK_FOLDER [--onnx] [--int8] [--openvino] [--data-path PATH]
[--processor NAME]`` writes ``model.pt2``, ``sample.npz``, ``proof.json`` and what is asked for into WORK_FOLDER. Nothing
of the process that chose the model is in this one, and nothing is unpickled.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from analysis import text
from analysis.ship.images import images_of
from analysis.ship.runtimes import calibration, val_accuracy
from gcp_core.config import TrialConfig
from gcp_core.cost.latency import measure_against, onnx_forward, openvino_forward
from gcp_core.data import Images, Splits, evaluation_batches
from gcp_core.errors import GcpError
from gcp_core.export import export_int8, export_onnx, export_openvino, export_program, run_program
from gcp_core.models import build_model
from gcp_core.models.arithmetic import float32_products
from gcp_core.models.devices import processor
from gcp_core.models.eager import FlopCounter
from gcp_core.records.checkpoint import load_model, read_manifest
from gcp_core.training.evaluation import evaluate

PROOF = "proof.json"
PROGRAM = "model.pt2"
ONNX = "model.onnx"
INT8 = "model.int8.onnx"
OPENVINO = "model.xml"
SAMPLE = "sample.npz"
#: Predictions may differ between machines only where the two best logits are closer than this.
CLOSE = 1e-4
_SAMPLE_IMAGES = 8


@dataclass(frozen=True)
class Proof:
    """What was measured again.

    Attributes:
        macs: multiply-adds of one image, half of what torch's FlopCounterMode counts.
        val_accuracy, test_accuracy: per cent, float32, in the manifest's batch size and memory format.
        val_close_calls, test_close_calls: images of the split whose two best logits are closer than 1e-4.
        export_difference: largest difference of the exported program's logits, over the largest logit.
        onnx_difference, onnx_val_accuracy: the same for the ONNX file, and its accuracy by onnxruntime; None
            without one.
        int8_val_accuracy: of the ONNX file in 8 bits, whose outputs are meant to differ; None without one.
        openvino_difference, openvino_val_accuracy: as for ONNX.
        latency_ms: median forward time now, batch 1, eager, with the interval of the median; the model and the
            unpruned one (``dense_latency_ms``) took turns.
        latency_share: model / unpruned model, with its interval.
        same_place: device type, thread count and torch version are those of the trial, and the processor's or GPU's name
            where it was recorded.
    """

    macs: int
    params: int
    val_accuracy: float
    test_accuracy: float
    val_images: int
    test_images: int
    val_close_calls: int
    test_close_calls: int
    export_difference: float
    latency_ms: float
    latency_low_ms: float
    latency_high_ms: float
    dense_latency_ms: float
    latency_share: float
    latency_share_low: float
    latency_share_high: float
    same_place: bool
    place: str
    onnx_difference: float | None = None
    onnx_val_accuracy: float | None = None
    int8_val_accuracy: float | None = None
    openvino_difference: float | None = None
    openvino_val_accuracy: float | None = None


def prove(
    folder: Path,
    work: Path,
    *,
    onnx: bool = False,
    int8: bool = False,
    openvino: bool = False,
    data_path: str | None = None,
    trained_on: str | None = None,
) -> Proof:
    """Measure the model in ``folder`` and write its exported program and a sample of outputs into ``work``.

    Args:
        onnx: also write ``model.onnx`` and evaluate it with onnxruntime.
        int8, openvino: also write ``model.int8.onnx``, ``model.xml`` (with ``model.bin``), made of ``model.onnx``.
        data_path: where the data is on this machine, if it has moved since the trial; its digest must be the same.
        trained_on: name of the processor or GPU that the trial ran on; None = not known.

    Raises:
        CheckpointError: the files are damaged, or the data is not what the model was trained on.
        ModelError: the model cannot be exported.
    """
    manifest = read_manifest(folder)
    config = TrialConfig.from_dict(manifest["config"])
    torch.set_num_threads(int(manifest["threads"]))
    device = _device(str(manifest["device"]))
    splits = images_of(config.data, manifest, str(folder), data_path)
    model = load_model(folder).to(device)
    if config.train.channels_last:
        model = model.to(memory_format=torch.channels_last)
    size, last = int(manifest["evaluation_batch"]), config.train.channels_last
    look = partial(evaluate, model, batch_size=size, channels_last=last)
    val, test = look(splits.val, splits.normalise), look(splits.test, splits.normalise)
    val_close, test_close = (
        _close_calls(model, images, splits, batch_size=size, channels_last=last)
        for images in (splits.val, splits.test)
    )
    sample = next(_batches(splits.test, splits, _SAMPLE_IMAGES, config.train.channels_last, device))
    dense = build_model(
        config.model.name, int(manifest["num_classes"]), int(manifest["in_channels"]), config.model.width
    ).to(device)
    if config.train.channels_last:
        dense = dense.to(memory_format=torch.channels_last)
    with float32_products():  # as in the trial, and as accuracies are taken
        latency = measure_against(model, dense, sample[:1], num_threads=int(manifest["threads"]))
    same_place, place = _place(manifest, device, trained_on)
    macs, difference = count_macs(model, sample[:1]), _export(model.cpu(), sample.cpu(), work)
    files = _onnx(model, sample.cpu(), splits, work, int8, openvino) if onnx or int8 or openvino else {}
    return Proof(
        macs=macs,
        params=sum(p.numel() for p in model.parameters()),
        val_accuracy=val.accuracy,
        test_accuracy=test.accuracy,
        val_images=val.num_images,
        test_images=test.num_images,
        val_close_calls=val_close,
        test_close_calls=test_close,
        export_difference=difference,
        latency_ms=latency.median_ms,
        latency_low_ms=latency.low_ms,
        latency_high_ms=latency.high_ms,
        dense_latency_ms=latency.reference_ms,
        latency_share=latency.share,
        latency_share_low=latency.share_low,
        latency_share_high=latency.share_high,
        same_place=same_place,
        place=place,
        **files,
    )


def _place(manifest: dict[str, Any], device: torch.device, trained_on: str | None) -> tuple[bool, str]:
    """Whether the model was trained in such a place, and what this one is: another kind of processor may add in another
    order.
    """
    threads = text.plural(int(manifest["threads"]), "thread")
    here = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    place = f"{device.type}, {threads}, torch {torch.__version__}"
    trained = f"{torch.device(manifest['device']).type}, {threads}, torch {manifest['torch']}"
    return place == trained and trained_on in (None, here), f"{place}, {here}"


def _device(trained_on: str) -> torch.device:
    wanted = torch.device(trained_on)
    return wanted if wanted.type != "cuda" or torch.cuda.is_available() else torch.device("cpu")


def count_macs(model: nn.Module, image: Tensor) -> int:
    """Multiply-adds of one forward pass by torch's own counter, independent of ``gcp_core.cost``."""
    counter = FlopCounter(display=False)
    with counter, torch.no_grad():
        model(image)
    return int(counter.get_total_flops()) // 2


def _batches(
    images: Images, splits: Splits, size: int, channels_last: bool, device: torch.device
) -> Iterator[Tensor]:
    for batch, _ in evaluation_batches(images.to(device), splits.normalise, size, channels_last):
        yield batch


@torch.no_grad()
def _close_calls(
    model: nn.Module, images: Images, splits: Splits, *, batch_size: int, channels_last: bool
) -> int:
    device = next(model.parameters()).device
    close = 0
    with float32_products():
        for batch in _batches(images, splits, batch_size, channels_last, device):
            best = model(batch).topk(2, dim=1).values
            close += int((best[:, 0] - best[:, 1] < CLOSE).sum())
    return close


@torch.no_grad()
def _export(model: nn.Module, sample: Tensor, work: Path) -> float:
    """Export, read the file back, compare on the sample and on one image; the largest relative difference."""
    export_program(model, sample[:2], work / PROGRAM)
    expected = model(sample)
    scale = float(expected.abs().max()) or 1.0
    differences = [
        float((run_program(work / PROGRAM, sample[:n]) - model(sample[:n])).abs().max())
        for n in (len(sample), 1)
    ]
    np.savez(work / SAMPLE, inputs=sample.contiguous().numpy(), logits=expected.numpy())
    return max(differences) / scale


@torch.no_grad()
def _onnx(
    model: nn.Module, sample: Tensor, splits: Splits, work: Path, int8: bool, openvino: bool
) -> dict[str, float]:
    """Write the ONNX file and what is made of it; largest relative differences on the sample, validation accuracies."""
    export_onnx(model, sample[:2], work / ONNX)
    expected = model(sample)
    scale = float(expected.abs().max()) or 1.0

    def judged(name: str, forward: Callable[[Tensor], Tensor]) -> dict[str, float]:
        difference = float((forward(sample.contiguous()) - expected).abs().max()) / scale
        return {f"{name}_difference": difference, f"{name}_val_accuracy": val_accuracy(forward, splits)}

    found = judged("onnx", onnx_forward(work / ONNX))
    if int8:
        export_int8(work / ONNX, calibration(splits), work / INT8)
        found["int8_val_accuracy"] = val_accuracy(onnx_forward(work / INT8), splits)
    if openvino:
        export_openvino(model, work / ONNX, work / OPENVINO)
        found |= judged("openvino", openvino_forward(work / OPENVINO))
    return found


def main(arguments: list[str]) -> int:
    """Exit code 0 with ``proof.json``, or 1 with the error's parts in it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("work", type=Path)
    for name in ("onnx", "int8", "openvino"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--data-path")
    parser.add_argument("--processor")
    options = parser.parse_args(arguments)
    answer: dict[str, Any]
    try:
        asked = {"onnx": options.onnx, "int8": options.int8, "openvino": options.openvino}
        where = {"data_path": options.data_path, "trained_on": options.processor}
        proof = prove(options.folder, options.work, **where, **asked)
        answer = dataclasses.asdict(proof)
    except GcpError as error:
        answer = error.as_dict()
    (options.work / PROOF).write_text(json.dumps(answer))
    return 1 if "error" in answer else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
