"""What compensation is worth: one cut of a trained net, no training after it, accuracy with and without repair.

A net is trained without pruning (kept in ``--work``, so that a second call only cuts). Then, for each criterion and
share, one event takes the MACs down and validation accuracy is measured four times: cut as it is; cut after compensation
(the layers that read removed channels refitted by least squares); and both with the norms' running statistics taken anew,
which is the other cheap repair and needs as many images. Scores, fits and statistics see the same training images,
without augmentation. Means over seeds and the smallest and largest value.

    OMP_NUM_THREADS=1 python -m benchmarks.evidence.compensation --data /data/cifar10 --work /tmp/compensation --out ...
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import record
from gcp_core.checkpoint import load_model
from gcp_core.config import DataConfig, ModelConfig, TrainConfig, TrialConfig
from gcp_core.criteria import Criterion, build_criterion, is_comparable
from gcp_core.data import evaluation_batches
from gcp_core.groups import Groups, find_groups
from gcp_core.plan import Plan
from gcp_core.repairs.least_squares import compensate, consumers_of
from gcp_core.seeds import generator
from gcp_core.selection import Budget, select_channels
from gcp_core.surgery import apply_plan
from gcp_core.training import run_trial
from gcp_core.training.evaluation import evaluate
from gcp_core.training.setup import Setup, build_setup
from gcp_core.training.statistics import recomputed

Batches = list[tuple[Tensor, Tensor]]
#: Row of the table -> what it is built from.
CRITERIA = {
    "frs": "frs",
    "l1": "l1",
    "random": "random",
    "compensation": "compensation",
}
WAYS = ("cut", "repaired", "cut, norms anew", "repaired, norms anew")


def trained(options: argparse.Namespace, name: str, seed: int) -> tuple[Setup, nn.Module]:
    """The unpruned net, trained now or by an earlier call."""
    config = TrialConfig(
        seed=seed,
        data=DataConfig("parquet", options.data, train_images=options.train_images, val_images=5000),
        model=ModelConfig(name),
        train=TrainConfig(
            epochs=options.epochs, batch_size=64, lr=0.1, schedule="one_cycle", eval_images=2000, device="cpu"
        ),
        prune=None,
    )
    folder = options.work / f"{name}-{options.train_images}-{options.epochs}-seed-{seed}"
    if not (folder / "model").is_dir():
        run_trial(config, checkpoint_dir=folder, latency=False)
    return build_setup(config), load_model(folder / "model")


def seen(setup: Setup, number: int) -> Batches:
    """``number`` training images without augmentation."""
    train = setup.splits.train
    order = torch.randperm(len(train), generator=generator(setup.config.seed, "compensation"))
    some = train.subset(order[:number].to(train.rows.device))
    return list(evaluation_batches(some, setup.splits.normalise, 125, setup.config.train.channels_last))


def cut_down(groups: Groups, criterion: Criterion, scores: dict[str, Tensor], share: float) -> Plan:
    """The fewest lowest units whose removal takes ``share`` of the MACs."""
    if not is_comparable(criterion):
        scores = {layer: s / s.norm().clamp_min(1e-300) for layer, s in scores.items()}
    limit = (1 - share) * groups.cost()[0]
    return select_channels(scores, groups, Budget(ratio=1.0, limit=limit, min_share=0.03))


def accuracies(
    setup: Setup, model: nn.Module, plan: Plan, batches: Batches, sampling_stride: int
) -> dict[str, Any]:
    """Validation accuracy by way, and what the repair cost."""
    row: dict[str, Any] = {}
    begun = time.process_time()
    repaired = copy.deepcopy(model)
    done = compensate(repaired, consumers_of(repaired, plan), batches, sampling_stride=sampling_stride)
    row["repair_cpu_s"] = round(time.process_time() - begun, 2)
    row["lost"] = round(statistics.mean(one.lost for one in done if one.lost is not None), 4)
    for way, net in (("cut", copy.deepcopy(model)), ("repaired", repaired)):
        apply_plan(net, plan)
        row[way] = accuracy(setup, net)
        with recomputed(net, batches, keep=True):
            row[f"{way}, norms anew"] = accuracy(setup, net)
    return row


def accuracy(setup: Setup, model: nn.Module) -> float:
    """Per cent of the validation images."""
    return round(evaluate(model, setup.splits.val, setup.splits.normalise).accuracy, 2)


def rows_of(options: argparse.Namespace, name: str, seed: int) -> list[dict[str, Any]]:
    """One net, all criteria and shares."""
    setup, model = trained(options, name, seed)
    model.eval()
    groups = find_groups(model, setup.example)
    batches = seen(setup, options.images)
    dense = accuracy(setup, model)
    rows = []
    for label in options.criteria:
        own = {"sampling_stride": options.sampling_stride} if label == "compensation" else {}
        criterion = build_criterion(CRITERIA[label], own)
        scores = criterion.score(model, groups, batches, generator(seed, "event"))
        for share in options.shares:
            plan = cut_down(groups, criterion, scores, share)
            removed = 1 - groups.cost(plan.removed)[0] / groups.cost()[0]
            about = {"model": name, "seed": seed, "criterion": label, "share": share}
            measured = accuracies(setup, model, plan, batches, options.sampling_stride)
            rows.append({**about, "removed": round(removed, 4), "dense": dense, **measured})
            print(rows[-1], flush=True)
    return rows


def table(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean, smallest and largest accuracy over seeds of each model, criterion and share."""
    found: dict[tuple[str, float, str], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["model"], row["share"], row["criterion"]), []).append(row)
    lines = []
    for (name, share, label), own in sorted(found.items()):
        line: dict[str, Any] = {"model": name, "share": share, "criterion": label, "seeds": len(own)}
        for way in ("dense", *WAYS):
            values = [row[way] for row in own]
            line[way] = [round(statistics.mean(values), 1), min(values), max(values)]
        lines.append(line)
    return lines


def main() -> None:
    """Train what is not there yet, cut, measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of the CIFAR-10 parquet files")
    parser.add_argument("--work", type=Path, required=True, help="where trained nets are kept")
    parser.add_argument("--models", nargs="+", default=["vgg_tiny", "resnet20"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--criteria", nargs="+", choices=list(CRITERIA), default=list(CRITERIA))
    parser.add_argument(
        "--shares", type=float, nargs="+", default=[0.3, 0.5], help="of the MACs, removed at once"
    )
    parser.add_argument("--epochs", type=int, default=16, help="of the unpruned training")
    parser.add_argument("--train-images", type=int, default=10_000)
    parser.add_argument("--images", type=int, default=2000, help="that scores and repairs see")
    parser.add_argument("--sampling-stride", type=int, default=2, help="of the fits: every n-th position")
    record.add_out(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for name in options.models for seed in options.seeds for row in rows_of(options, name, seed)]
    settings = {key: getattr(options, key) for key in ("epochs", "train_images", "images", "sampling_stride")}
    record.write(options.out, {"settings": settings, "table": table(rows), "rows": rows})


if __name__ == "__main__":
    main()
