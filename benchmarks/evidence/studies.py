"""Which trainings answer which question about paths. Setting: ``vgg_tiny`` on 10,000 CIFAR-10 images, as in the guide.

Every study is a list of trainings for one seed. ``benchmarks/evidence/trainings.py`` runs them, and
``benchmarks/evidence/study_tables.py`` reads what came of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.yardstick import SHARES
from gcp_core.config import DataConfig, ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.methods import with_method

LEVELS = (0.3, 0.5, 0.65, 0.8, 0.9, 0.95)
#: Floors are the same on all sides.
MIN_SHARE = 0.03
#: Criteria that are compared with each other.
CRITERIA = ("frs", "shuffled:frs", "random", "l1", "bn_scale", "taylor")
#: Published methods that are compared on equal paths.
METHODS = (
    "slow_start",
    "activation_density",
    "grasp",
    "variance",
    "catro",
    "network_adjustment",
    "compensation",
    "bwcp",
    "consensus",
)
#: Single trials have their events in this first part of their epochs: the best of the recorded 48 had.
EARLY = 0.4
#: What a single trial costs of its epochs, by the share that is left, when it is pruned that early (dense epochs per
#: epoch); measured costs are in the tables.
SINGLE_COST = {0.5: 0.62, 0.35: 0.51, 0.2: 0.42, 0.1: 0.35}
#: A path of 4 + 6 epochs costs about this many dense epochs.
PATH_COST = 15.3


@dataclass(frozen=True)
class Training:
    """One training, and what follows from its snapshots.

    Attributes:
        polish: (level, epochs) of a snapshot that is trained on afterwards.
        anew: (level, epochs) of a snapshot whose widths are trained from scratch; epochs None = for what the path has
            cost up to it.
        looks: whether averages of the weights are evaluated with every snapshot.
    """

    name: str
    config: TrialConfig
    polish: tuple[tuple[int, int], ...] = ()
    anew: tuple[tuple[int, int | None], ...] = ()
    looks: bool = False


def _config(
    seed: int, data: str, train: dict[str, Any], prune: dict[str, Any] | None, model: str
) -> TrialConfig:
    return TrialConfig(
        seed=seed,
        data=DataConfig("parquet", path=data, train_images=10_000, val_images=5_000),
        model=ModelConfig(model),
        train=TrainConfig(batch_size=64, lr=0.1, eval_images=2000, **train),
        prune=None if prune is None else PruneConfig(min_share=MIN_SHARE, **prune),
    )


def unpruned(seed: int, data: str, epochs: int, model: str = "vgg_tiny") -> TrialConfig:
    return _config(seed, data, {"epochs": epochs, "schedule": "one_cycle"}, None, model)


def single(seed: int, data: str, epochs: int, left: float, criterion: str = "frs") -> TrialConfig:
    """A single trial down to ``left`` of the MACs, pruned early: in four events or more; in two or three where it has
    fewer than ten epochs.
    """
    prune = {
        "criterion": criterion,
        "interval": max(1, round(EARLY * epochs / 5)),
        "ratio": 0.2,
        "target": 1 - left,
        "until": EARLY,
        "finish": True,
    }
    return _config(seed, data, {"epochs": epochs, "schedule": "one_cycle"}, prune, "vgg_tiny")


def path(
    seed: int,
    data: str,
    start: int,
    interval: int,
    *,
    restart: float = 1.0,
    levels: tuple[float, ...] = LEVELS,
    criterion: str = "frs",
    model: str = "vgg_tiny",
    **prune: Any,
) -> TrialConfig:
    train = {"schedule": "cycles", "restart": restart}
    prune = {"criterion": criterion, "start": start, "interval": interval, "levels": levels, **prune}
    return _config(seed, data, train, prune, model)


def epochs(seed: int, data: str) -> list[Training]:
    """Same epochs, same cost: when to use a path, when a single trial."""
    made = [Training(f"unpruned, {n} epochs", unpruned(seed, data, n)) for n in (12, 18, 30)]
    made += [Training(f"single to {left:.0%}, 30 epochs", single(seed, data, 30, left)) for left in SHARES]
    for left in SHARES:
        few = round(PATH_COST / len(SHARES) / SINGLE_COST[left])
        made.append(Training(f"single to {left:.0%}, a quarter of a path", single(seed, data, few, left)))
    # Snapshots 2, 3, 4, 5 are those at 50, 35, 20, 10 %; a polish brings each to about what its 30-epoch single costs.
    polish = ((2, 12), (3, 12), (4, 12), (5, 12))
    same_epochs = tuple((level, 30) for level, _ in polish)
    made.append(Training("path 4 + 6", path(seed, data, 4, 6), polish, same_epochs))
    repaired = path(seed, data, 4, 6, repair="least_squares")
    made.append(Training("path 4 + 6, repaired", repaired, polish))
    made.append(Training("path 12 + 3", path(seed, data, 12, 3, restart=0.5)))
    # As dear as the four single trials of 30 epochs together.
    made.append(Training("path 10 + 18, repaired", path(seed, data, 10, 18, repair="least_squares")))
    return made


def criteria(seed: int, data: str) -> list[Training]:
    """Which criterion, on equal paths; the dense phase is the same for all."""
    return [Training(f"path, {name}", path(seed, data, 4, 6, criterion=name)) for name in CRITERIA]


def criteria_resnet(seed: int, data: str) -> list[Training]:
    """The same on ResNet-20, and what residual streams that keep their width (``scatter``) make of ``frs``."""
    made = [
        Training(f"path, {name}", path(seed, data, 4, 6, criterion=name, model="resnet20"))
        for name in CRITERIA
    ]
    scattered = path(seed, data, 4, 6, model="resnet20", residual="scatter")
    return [*made, Training("path, frs, scatter", scattered)]


def methods(seed: int, data: str) -> list[Training]:
    """The published methods, and controls, on the paths of the criteria study (``gcp`` is its path with ``frs``)."""
    plain = path(seed, data, 4, 6)
    made = [Training(f"path, {name}", with_method(plain, name)) for name in METHODS]
    repaired = path(seed, data, 4, 6, repair="least_squares")
    made.append(Training("path, frs, repaired", repaired))
    made.append(Training("path, uniform l1", path(seed, data, 4, 6, criterion="l1", allocator="uniform")))
    # Snapshots 2 and 4 are those at 50 and 20 %.
    made.append(Training("path, frs", plain, anew=((2, None), (4, None))))
    return made


def repair(seed: int, data: str) -> list[Training]:
    """Whether repaired cuts pay, by ``frs`` and by chance; the first is the path of the criteria study."""
    made = [Training("path, frs", path(seed, data, 4, 6))]
    for name in ("frs", "random"):
        config = path(seed, data, 4, 6, criterion=name, repair="least_squares")
        made.append(Training(f"path, {name}, repaired", config))
    return made


def settings(cost: int) -> Callable[[int, str], list[Training]]:
    """How to set a path that costs about 12, 18 or 30 dense epochs; all with repaired cuts, which cost nearly nothing.

    At 12, a long dense phase with cycles from half the rate was last with every seed, and few levels with long cycles
    were first at a tenth: at 18 and 30 the one is not tried again, and the other is.
    """
    few, many = (0.5, 0.8, 0.9, 0.95), (0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
    tried: dict[int, dict[str, dict[str, Any]]] = {
        12: {
            "start 3, interval 5": {"start": 3, "interval": 5},
            "start 6, interval 3": {"start": 6, "interval": 3},
            "start 6, interval 3, restart 0.5": {"start": 6, "interval": 3, "restart": 0.5},
            "start 3, interval 10, 4 levels": {"start": 3, "interval": 10, "levels": few},
        },
        18: {
            "start 4, interval 7": {"start": 4, "interval": 7},
            "start 8, interval 5": {"start": 8, "interval": 5},
            "start 4, interval 16, 4 levels": {"start": 4, "interval": 16, "levels": few},
            "start 6, interval 4, 8 levels": {"start": 6, "interval": 4, "levels": many},
        },
        30: {
            "start 6, interval 12": {"start": 6, "interval": 12},
            "start 12, interval 9": {"start": 12, "interval": 9},
            "start 4, interval 30, 4 levels": {"start": 4, "interval": 30, "levels": few},
            "start 9, interval 7, 8 levels": {"start": 9, "interval": 7, "levels": many},
        },
    }

    def trainings(seed: int, data: str) -> list[Training]:
        return [
            Training(name, path(seed, data, repair="least_squares", **keys))
            for name, keys in tried[cost].items()
        ]

    return trainings


def additions(seed: int, data: str) -> list[Training]:
    """What distillation and averaging give to a path; with a teacher a path of 4 + 6 costs what one of 4 + 12 does."""
    plain = path(seed, data, 4, 6)

    def with_penalty(name: str) -> TrialConfig:
        return replace(plain, train=replace(plain.train, penalty=f"benchmarks.evidence.additions:{name}"))

    return [
        Training("path 4 + 6", plain),
        Training("path 4 + 12", path(seed, data, 4, 12)),
        Training("path 4 + 6, distilled", with_penalty("distilled")),
        Training("path 4 + 6, averaged", with_penalty("averaged"), looks=True),
    ]


STUDIES: dict[str, Callable[[int, str], list[Training]]] = {
    "epochs": epochs,
    "criteria": criteria,
    "criteria_resnet": criteria_resnet,
    "methods": methods,
    "repair": repair,
    **{f"settings_{cost}": settings(cost) for cost in (12, 18, 30)},
    "additions": additions,
}
