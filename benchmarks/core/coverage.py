"""Which networks can be pruned at all, and is it exact? Ours and torch-pruning, the same steps on the same nets.

Per network: remove 30 % at random (of all units over the whole network), run forward and backward in training mode,
export with torch.export (dynamic batch), and compare the removed with the gated model in float64, in eval and in
training mode (batch of 4; dropout and stochastic depth off). Gating torch-pruning means zeroing, in a copy of the
full network, the outputs of every conv, linear and norm layer at the indices it removed.

    OMP_NUM_THREADS=1 python -m benchmarks.core.coverage --out benchmarks/results/coverage.json
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from benchmarks import record
from gcp_core.cost import measure_cost
from gcp_core.groups import find_groups
from gcp_core.models import build_model
from gcp_core.pruning.selection import Budget, select_channels
from gcp_core.pruning.surgery import apply_plan, gate_channels

# The same lively networks and scores as in the tests.
from tests.oracles.nets import images, lively, logits, random_scores

SHARE = 0.3
NUM_CLASSES = 10
#: Network -> side of its images: the smallest that the net allows and that leaves more than one position at its end.
NETS: dict[str, int] = {
    **dict.fromkeys(("vgg16_bn", "resnet20", "resnet56", "resnet110", "resnet164"), 32),
    **dict.fromkeys(
        (f"torchvision:{n}" for n in ("alexnet", "squeezenet1_0", "squeezenet1_1", "googlenet")), 96
    ),
    **dict.fromkeys((f"torchvision:resnet{n}" for n in (18, 34, 50)), 64),
    **dict.fromkeys((f"torchvision:{n}" for n in ("resnext50_32x4d", "vgg11_bn", "wide_resnet50_2")), 64),
    **dict.fromkeys((f"torchvision:mobilenet_{n}" for n in ("v2", "v3_small", "v3_large")), 64),
    **dict.fromkeys((f"torchvision:{n}" for n in ("mnasnet0_5", "mnasnet1_0", "densenet121")), 64),
    **dict.fromkeys((f"torchvision:{n}" for n in ("efficientnet_b0", "efficientnet_v2_s")), 64),
    **dict.fromkeys((f"torchvision:regnet_{n}" for n in ("x_400mf", "y_400mf")), 64),
    **dict.fromkeys((f"torchvision:shufflenet_v2_{n}" for n in ("x0_5", "x1_0")), 64),
    "torchvision:convnext_tiny": 64,
    "torchvision:inception_v3": 299,
    **dict.fromkeys((f"torchvision:{n}" for n in ("vit_b_16", "swin_t", "maxvit_t")), 224),
}


@dataclass
class Row:
    """One network and one tool. ``failed`` names the step that raised, with the message."""

    net: str
    tool: str
    right: bool = False
    failed: str = ""
    find_s: float = float("nan")
    macs_left: float = float("nan")
    params_left: float = float("nan")
    error_eval: float = float("nan")
    error_train: float = float("nan")


class StepFailed(Exception):
    """A step that raised: its name and the reason."""


@contextmanager
def step(name: str) -> Iterator[None]:
    """Name the step in whatever it raises."""
    try:
        yield
    except Exception as exc:
        first = (str(exc).strip().splitlines() or [""])[0]
        raise StepFailed(f"{name}: {type(exc).__name__}: {first[:110]}") from exc


@contextmanager
def zeroed_outputs(model: nn.Module, indices: dict[str, list[int]]) -> Iterator[None]:
    """Outputs of the named layers are zero at these channels."""

    def hook_for(gone: Tensor) -> Callable[[nn.Module, object, Tensor], Tensor]:
        return lambda module, inputs, out: out.index_fill(
            -1 if isinstance(module, nn.Linear) else 1, gone, 0.0
        )

    modules = dict(model.named_modules())
    handles = [modules[n].register_forward_hook(hook_for(torch.tensor(i))) for n, i in indices.items() if i]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def prune_ours(model: nn.Module, x: Tensor, row: Row):
    """Remove in place; returns the gate for a copy of the full model."""
    with step("groups"):
        started = time.perf_counter()
        groups = find_groups(model, x)
        row.find_s = time.perf_counter() - started
    with step("prune"):
        plan = select_channels(random_scores(groups), groups, Budget(ratio=SHARE))
        apply_plan(model, plan)
    return lambda whole: gate_channels(whole, plan)


def prune_torch_pruning(model: nn.Module, x: Tensor, row: Row):
    """The same with torch-pruning's own global random pruner."""
    import torch_pruning as tp

    logging.getLogger("torch_pruning").setLevel(logging.ERROR)
    outputs = [
        m
        for m in model.modules()
        if NUM_CLASSES in (getattr(m, "out_features", 0), getattr(m, "out_channels", 0))
    ]
    with step("groups"):
        started = time.perf_counter()
        pruner = tp.pruner.BasePruner(
            model,
            x[:1],
            importance=tp.importance.RandomImportance(),
            pruning_ratio=SHARE,
            global_pruning=True,
            ignored_layers=outputs,
        )
        row.find_s = time.perf_counter() - started
    names = {id(module): name for name, module in model.named_modules()}
    alive: dict[str, list[int]] = {}
    gone: dict[str, list[int]] = {}
    with step("prune"):
        for group in pruner.step(interactive=True):
            for item in group:
                module = item.dep.target.module
                name = names.get(id(module), "")
                if not name or not pruner.DG.is_out_channel_pruning_fn(item.dep.handler):
                    continue
                if not isinstance(module, (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.BatchNorm1d)):
                    continue
                left = alive.setdefault(name, list(range(pruner.DG.get_out_channels(module))))
                original = [left[i] for i in item.idxs]
                gone.setdefault(name, []).extend(original)
                alive[name] = [i for i in left if i not in set(original)]
            group.prune()
    return lambda whole: zeroed_outputs(whole, gone)


def judge(row: Row, whole: nn.Module, x: Tensor, prune: Callable) -> None:
    """All steps for one network and tool; fills ``row``."""
    torch.manual_seed(0)
    small = copy.deepcopy(whole)
    dense = measure_cost(whole, x)
    gate = prune(small, x, row)
    errors = []
    for training in (False, True):
        with step("forward"), torch.no_grad():
            removed = logits(copy.deepcopy(small).train(training)(x))
        full = copy.deepcopy(whole).train(training)
        with step("gate"), torch.no_grad(), gate(full):
            gated = logits(full(x))
        errors.append(float((removed - gated).abs().max() / gated.abs().max()))
    row.error_eval, row.error_train = errors
    with step("cost"):
        cost = measure_cost(small, x)
        row.macs_left, row.params_left = cost.macs / dense.macs, cost.params / dense.params
    with step("backward"):
        logits(small.train()(x)).sum().backward()
    with step("export"):
        batch = {0: torch.export.Dim("batch", min=2, max=64)}
        exported = torch.export.export(small.eval(), (x,), dynamic_shapes=(batch,)).module()
        with torch.no_grad():
            difference = float((exported(x[:2]) - small(x[:2])).abs().max())
        if not difference <= 1e-9:
            raise ValueError(f"the exported network differs by {difference:.1e}")
    row.right = max(errors) <= 1e-12 and row.params_left < 1


def run(net: str, size: int, tools: dict[str, Callable]) -> list[Row]:
    """One row per tool."""
    torch.manual_seed(0)
    whole = lively(build_model(net, NUM_CLASSES))
    x = images(4 if size < 200 else 2, size)
    rows = []
    for tool, prune in tools.items():
        row = Row(net, tool)
        try:
            judge(row, whole, x, prune)
        except StepFailed as exc:
            row.failed = str(exc)
        rows.append(row)
        print(table_line(row), flush=True)
    return rows


def table_line(row: Row) -> str:
    """One Markdown row."""
    left = f"{row.macs_left:.2f} | {row.params_left:.2f}"
    numbers = f"{row.find_s:.2f} | {left} | {row.error_eval:.0e} | {row.error_train:.0e}"
    return f"| {row.net} | {row.tool} | {'yes' if row.right else 'NO'} | {numbers} | {row.failed} |"


def main() -> None:
    """Print a Markdown table, then the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="*", default=list(NETS), choices=list(NETS), metavar="NET")
    parser.add_argument("--tools", nargs="*", default=["ours", "torch-pruning"])
    record.add_out(parser)
    options = parser.parse_args()
    known = {"ours": prune_ours, "torch-pruning": prune_torch_pruning}
    print("| net | tool | right | groups s | MACs left | params left | error eval | error train | failed |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    rows: list[Row] = []
    for number, net in enumerate(options.nets, start=1):
        rows += run(net, NETS[net], {tool: known[tool] for tool in options.tools})
        right = {tool: sum(r.right for r in rows if r.tool == tool) for tool in options.tools}
        if options.out is not None:
            # After every net: an interrupted run keeps what it has.
            with contextlib.redirect_stdout(None):
                record.write(
                    options.out, {"nets": number, "right": right, "rows": [asdict(row) for row in rows]}
                )
    print(f"right, of {len(options.nets)}: {right}")


if __name__ == "__main__":
    main()
