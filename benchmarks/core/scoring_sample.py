"""Is the default scoring sample cheap enough, and does it rank units as all training images would?

Cost: one event with the default sample for 45,000 training images (scoring + selection + surgery + following the
groups) over one training epoch. Scored images and training steps are measured in turn in one process, in CPU time, a
few batches each; epoch and event are extrapolated from their medians by counting batches.

Fidelity: Spearman correlation over all prunable units between FRS of the sample and FRS of all training images of the
same trained network, plain against plain and winsorised against winsorised. One pass over all images per network
serves every row of the table; ``--readings`` keeps it, so that other sizes need no second pass.

    OMP_NUM_THREADS=1 python -m benchmarks.core.scoring_sample cost --path DATA --out ...
    OMP_NUM_THREADS=1 python -m benchmarks.core.scoring_sample fidelity --path DATA --models A/model B/model C/model
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import record
from gcp_core.config import DataConfig, ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.cost import measure_cost
from gcp_core.data import Images
from gcp_core.data.pipeline import SCORING_BATCH, ScoringBatches, num_steps, scoring_sample
from gcp_core.groups import Groups, find_groups
from gcp_core.pruning.selection import Budget, select_channels
from gcp_core.pruning.surgery import apply_plan
from gcp_core.records.checkpoint import load_model, read_manifest
from gcp_core.relevance import feature_relevance_scores, relevance_pass
from gcp_core.relevance.frs import class_sums, class_weights, scores_from_sums, winsorised
from gcp_core.steps import loss_of
from gcp_core.training.epoch import build_optimizer
from gcp_core.training.setup import Setup, build_setup

GOALS = {"event_over_epoch": 0.07, "plain": 0.99, "winsorised": 0.995}
QUANTILE = 0.999
BATCHES_A_CALL = 4


def config_of(path: str, model: str) -> TrialConfig:
    """45,000 training images, 5,000 for validation, the default sample and recipe."""
    data = DataConfig("parquet", path, val_images=5000)
    return TrialConfig(data=data, model=ModelConfig(model), train=TrainConfig(), prune=PruneConfig())


# --- cost -------------------------------------------------------------------------------------------------------------


def event_cost(path: str, name: str, rounds: int) -> dict[str, Any]:
    """One event in shares of one epoch, ``rounds`` times two training steps, four scored batches and one removal."""
    setup = build_setup(config_of(path, name))
    train = setup.config.train
    model = setup.new_model()
    optimizer = build_optimizer(model, train)
    steps = training_steps(setup, model, optimizer)
    # Whole batches only; several a call, since an event prepares the model once for all of its batches.
    scoring = list(itertools.islice(setup.scoring, BATCHES_A_CALL))
    times: dict[str, list[float]] = {"step": [], "score": [], "remove": []}
    next(steps)
    for _ in range(rounds):
        times["step"].append(statistics.mean(cpu_s(lambda: next(steps)) for _ in range(2)))
        seconds = cpu_s(lambda: feature_relevance_scores(model, scoring, 10))
        times["score"].append(seconds / BATCHES_A_CALL)
        times["remove"].append(cpu_s(lambda: remove_some(setup)))
    median = {part: statistics.median(values) for part, values in times.items()}
    sample = scoring_sample(setup.splits.train, "auto", 10, 0)
    epoch = num_steps(setup.train_images, train.batch_size) * median["step"]
    event = len(sample) / SCORING_BATCH * median["score"] + median["remove"]
    per_round = [
        (len(sample) / SCORING_BATCH * score + median["remove"])
        / (num_steps(setup.train_images, train.batch_size) * step)
        for step, score in zip(times["step"], times["score"])
    ]
    return {
        "model": name,
        "training_images": len(setup.train_images),
        "batch_size": train.batch_size,
        "sample_images": len(sample),
        "measured": {
            "training_steps": 2 * rounds,
            "scored_batches": BATCHES_A_CALL * rounds,
            "scoring_batch": SCORING_BATCH,
        },
        "median_cpu_s": {part: round(value, 4) for part, value in median.items()},
        "epoch_s_extrapolated": round(epoch, 1),
        "event_s_extrapolated": round(event, 2),
        "event_over_epoch": event / epoch,
        "goal": GOALS["event_over_epoch"],
        "met": event / epoch <= GOALS["event_over_epoch"],
        "quartiles": statistics.quantiles(per_round, n=4),
        "scored_image_in_trained_images": (median["score"] / SCORING_BATCH)
        / (median["step"] / train.batch_size),
    }


def training_steps(setup: Setup, model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    """Yields after every training step, data included; starts over when an epoch is through."""
    train = setup.config.train
    for epoch in itertools.count(1):
        for images, labels in setup.epoch_batches(epoch):
            model.train()
            loss = loss_of(model(images), labels, train.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            yield


def remove_some(setup: Setup) -> None:
    """Everything of an event but the scoring, on a fresh model: groups (traced anew), selection, surgery, cost."""
    model = setup.new_model()
    optimizer = build_optimizer(model, setup.config.train)
    groups = find_groups(model, setup.example)
    scores = {layer: torch.rand(size) for layer, size in groups.scored_layers().items()}
    plan = select_channels(scores, groups, Budget(ratio=0.2))
    apply_plan(model, plan, optimizer)
    groups.after(plan)
    measure_cost(model, setup.example)


# --- fidelity ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Readings:
    """Relevance of every channel for every image, ``{layer: (N, C)}``, labels ``(N,)`` and hits (classified right)."""

    labels: Tensor
    hits: Tensor
    layers: dict[str, Tensor]

    def at(self, positions: Tensor) -> Readings:
        layers = {layer: values[positions] for layer, values in self.layers.items()}
        return Readings(self.labels[positions], self.hits[positions], layers)

    def class_accuracy(self, num_classes: int) -> Tensor:
        counts = torch.bincount(self.labels, minlength=num_classes).double()
        return torch.bincount(self.labels[self.hits], minlength=num_classes).double() / counts.clamp_min(1)


def read_all(model: nn.Module, groups: Groups, batches: ScoringBatches) -> Readings:
    """One relevance pass over all images."""
    parts: list[Readings] = []
    with relevance_pass(model, layers=groups.scored_layers()) as run:
        for images, labels in batches:
            layers, logits = run(images, labels)
            parts.append(Readings(labels, logits.argmax(1) == labels, layers))
    return Readings(
        torch.cat([part.labels for part in parts]),
        torch.cat([part.hits for part in parts]),
        {layer: torch.cat([part.layers[layer] for part in parts]) for layer in parts[0].layers},
    )


def scores_of(
    readings: Readings, num_classes: int, quantile: float | None, accuracy: Tensor
) -> dict[str, Tensor]:
    """FRS as :func:`gcp_core.relevance.feature_relevance_scores` computes it, from readings."""
    counts = torch.bincount(readings.labels, minlength=num_classes).double()
    weights = class_weights(accuracy, num_classes)
    scores = {}
    for layer, values in readings.layers.items():
        values = values if quantile is None else winsorised(values, quantile)
        sums = class_sums(values, readings.labels, num_classes)
        scores[layer] = scores_from_sums(sums, counts, weights)
    return scores


def unit_scores(scores: dict[str, Tensor], groups: Groups) -> Tensor:
    """One score per prunable unit: the mean over its scored members."""
    found = []
    for group in groups.groups:
        members = [member for member in group.members if member.scored]
        found += [
            statistics.mean(float(scores[m.layer][list(m.channels[u])].mean()) for m in members)
            for u in range(group.size)
        ]
    return torch.tensor(found, dtype=torch.float64)


def agreement(found: Tensor, reference: Tensor) -> dict[str, float]:
    """Spearman correlation of unit scores, and the shared part of their lowest tenths."""
    ranks = torch.stack([t.argsort().argsort().double() for t in (found, reference)])
    tenth = len(found) // 10
    low = [set(t.argsort()[:tenth].tolist()) for t in (found, reference)]
    return {
        "spearman": float(torch.corrcoef(ranks)[0, 1]),
        "lowest_tenth_shared": len(low[0] & low[1]) / tenth,
    }


def fidelity(setup: Setup, folder: Path, sizes: list[int], kept: Path | None) -> dict[str, Any]:
    """Agreement of samples with all images for one trained network, by residual mode and size."""
    manifest = read_manifest(folder)
    model = load_model(folder).eval().to(memory_format=torch.channels_last)
    images, seed = setup.train_images, int(manifest["config"]["seed"])
    groups = {mode: find_groups(model, setup.example, residual=mode) for mode in ("coupled", "scatter")}
    started = time.process_time()
    readings = load_or_read(model, groups["scatter"], setup, kept and kept / f"seed{seed}.pt")
    seconds = time.process_time() - started
    classes = setup.splits.num_classes
    accuracy = readings.class_accuracy(classes)
    rows = []
    for quantile in (None, QUANTILE):
        everything = scores_of(readings, classes, quantile, accuracy)
        for size, sample_seed in itertools.product(["auto", *sizes], range(3)):
            sample = scoring_sample(images, size, classes, sample_seed)
            part = readings.at(positions_of(sample, images))
            own = scores_of(part, classes, quantile, part.class_accuracy(classes))
            known = scores_of(part, classes, quantile, accuracy)
            for mode in groups:
                reference = unit_scores(everything, groups[mode])
                rows.append(
                    {
                        "form": "plain" if quantile is None else "winsorised",
                        "size": size,
                        "images": len(sample),
                        "sample_seed": sample_seed,
                        "residual": mode,
                        "units": len(reference),
                        **agreement(unit_scores(own, groups[mode]), reference),
                        "spearman_with_class_accuracy_of_all": agreement(
                            unit_scores(known, groups[mode]), reference
                        )["spearman"],
                    }
                )
    return {
        "net_seed": seed,
        "model": manifest["config"]["model"]["name"],
        "trained_on": manifest["config"]["data"]["train_images"],
        "epochs": manifest["config"]["train"]["epochs"],
        "images": len(images),
        "accuracy_on_them": 100 * float(readings.hits.double().mean()),
        "full_pass_cpu_s": round(seconds, 1),
        "rows": rows,
    }


def load_or_read(model: nn.Module, groups: Groups, setup: Setup, path: Path | None) -> Readings:
    """The readings of all training images; kept in ``path``."""
    if path is not None and path.is_file():
        return Readings(**torch.load(path, weights_only=True))
    readings = read_all(model, groups, ScoringBatches(setup.train_images, setup.splits.normalise))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(vars(readings), path)
    return readings


def positions_of(sample: Images, images: Images) -> Tensor:
    """Where the sample's images stand among all of them."""
    order = images.rows.argsort()
    return order[torch.searchsorted(images.rows[order], sample.rows)]


def summary(nets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Medians over networks and sampling seeds, one row per form, mode and size."""
    cells: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in itertools.chain.from_iterable(net["rows"] for net in nets):
        cells.setdefault((row["form"], row["residual"], row["images"]), []).append(row)
    table = []
    for (form, residual, images), rows in cells.items():
        values = sorted(row["spearman"] for row in rows)
        table.append(
            {
                "form": form,
                "residual": residual,
                "images": images,
                "spearman": statistics.median(values),
                "worst": values[0],
                "with_class_accuracy_of_all": statistics.median(
                    row["spearman_with_class_accuracy_of_all"] for row in rows
                ),
                "lowest_tenth_shared": statistics.median(row["lowest_tenth_shared"] for row in rows),
                "goal": GOALS[form],
                "met": statistics.median(values) >= GOALS[form],
            }
        )
    return table


def cpu_s(call: Callable[[], Any]) -> float:
    """CPU seconds of one call."""
    started = time.process_time()
    call()
    return time.process_time() - started


def main() -> None:
    """Run the wanted part and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("cost", "fidelity"))
    parser.add_argument("--path", required=True, help="folder of the CIFAR-10 parquet files")
    parser.add_argument("--nets", nargs="*", default=["resnet20", "resnet56"], help="cost: model names")
    parser.add_argument("--rounds", type=int, default=7, help="cost: repetitions")
    parser.add_argument(
        "--models", nargs="*", type=Path, default=[], help="fidelity: folders of trained models"
    )
    parser.add_argument(
        "--sizes", nargs="*", type=int, default=[1000, 4500, 9000], help="fidelity: beside auto"
    )
    parser.add_argument("--readings", type=Path, help="fidelity: folder in which readings are kept")
    parser.add_argument(
        "--images", type=int, help="fidelity: stop at this many training images (a trial run)"
    )
    record.add_out(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.part == "cost":
        record.write(options.out, [event_cost(options.path, name, options.rounds) for name in options.nets])
        return
    config = config_of(options.path, "resnet20")
    config = replace(config, data=replace(config.data, train_images=options.images))
    setup = build_setup(config)
    nets = [fidelity(setup, folder, options.sizes, options.readings) for folder in options.models]
    record.write(options.out, {"quantile": QUANTILE, "summary": summary(nets), "nets": nets})


if __name__ == "__main__":
    main()
