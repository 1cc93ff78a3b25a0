"""On which networks does relevance run, does it stay finite, and is its sum kept on the way down?

Networks with random weights and plausible batch norms (random scales and shifts, statistics of one batch), two random
images each. Relevance 1.0 starts at the true logit. ``finite`` is float32; the sums are float64, where rounding does
not hide what a rule does:

* ``kept``: sum of relevance at the first layer's output over what should arrive there: 1.0 times the window sizes of
  the average pools on the way, whose relevance the method does not divide (``pool_factor``, as measured);
* ``grown``: the same for the channels' absolute sums: how far positive and negative relevance grow apart;
* ``one_signed``: largest share of a layer's relevance that sits at outputs whose contributions all have one sign. The
  rule's 2 - 1 = 1 has only one receiver there: such outputs pass on 2 R or -R, and the sum is not kept;
* ``unaccounted``: what is left of |sum in - sum out| / sum |out| once these outputs are counted as 2 R and -R;
* ``by_rule``: largest |sum in - sum out| / sum |out| over all uses of each rule.

    OMP_NUM_THREADS=1 python -m benchmarks.core.relevance_coverage --out benchmarks/results/relevance_coverage.json
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import record
from gcp_core.errors import GcpError
from gcp_core.models import build_model
from gcp_core.relevance import channel_relevance, rules
from gcp_core.relevance.stabiliser import EPSILON

#: Name -> side of the images: 64 where the network still has more than one position at its end, or must not.
NETS: dict[str, int] = {
    **dict.fromkeys(("resnet20", "resnet56", "resnet164", "vgg_tiny", "vgg16_bn"), 32),
    **dict.fromkeys(("torchvision:resnet18", "torchvision:resnet34", "torchvision:resnet50"), 64),
    **dict.fromkeys(("torchvision:resnext50_32x4d", "torchvision:wide_resnet50_2"), 64),
    **dict.fromkeys(("torchvision:vgg11", "torchvision:vgg16_bn", "torchvision:alexnet"), 64),
    **dict.fromkeys(("torchvision:squeezenet1_0", "torchvision:squeezenet1_1"), 64),
    **dict.fromkeys((f"torchvision:mobilenet_{n}" for n in ("v2", "v3_small", "v3_large")), 64),
    **dict.fromkeys((f"torchvision:mnasnet{n}" for n in ("0_5", "1_0")), 64),
    **dict.fromkeys((f"torchvision:efficientnet_{n}" for n in ("b0", "b1", "v2_s")), 64),
    **dict.fromkeys(("torchvision:densenet121", "torchvision:densenet169"), 64),
    **dict.fromkeys((f"torchvision:regnet_{n}" for n in ("x_400mf", "y_400mf")), 64),
    **dict.fromkeys((f"torchvision:shufflenet_v2_{n}" for n in ("x0_5", "x1_0")), 64),
    **dict.fromkeys(("torchvision:googlenet", "torchvision:inception_v3"), 96),
    "torchvision:convnext_tiny": 64,
}
RULES = {
    "linear": rules.LinearRule,
    "sum": rules.SumRule,
    "average": rules.AverageRule,
    "max": rules.MaxRule,
    "halves": rules.HalvesRule,
    "proportional": rules.ProportionalRule,
}


@dataclass
class Uses:
    """What was seen of one rule: ``(sum in, sum out, sum |out|)`` per use; for the linear rule also its balance."""

    sums: list[tuple[float, float, float]] = field(default_factory=list)
    one_signed: list[float] = field(default_factory=list)
    unaccounted: list[float] = field(default_factory=list)

    def worst(self) -> float:
        """Largest ``|sum in - sum out| / sum |out|``."""
        return max((abs(r_in - r_out) / size for r_in, r_out, size in self.sums if size), default=0.0)


def coverage(name: str, side: int) -> dict[str, Any]:
    """One row of the table."""
    row: dict[str, Any] = {"net": name, "side": side}
    model, images, labels = prepared(name, side, torch.float32)
    started = time.process_time()
    try:
        channel_relevance(model, images, labels)
    except GcpError as error:
        return row | {"finite": False, "error": str(error)}
    row |= {"finite": True, "cpu_s": round(time.process_time() - started, 2)}
    model, images, labels = prepared(name, side, torch.float64)
    positions = output_positions(model, images[:1])
    with watched() as uses:
        found = channel_relevance(model, images, labels)
    first = next(iter(found))
    factor = math.prod(r_in / r_out for r_in, r_out, _ in uses["average"].sums if r_out)
    at_stem = found[first] * positions[first]
    return row | {
        "layers": len(found),
        "pool_factor": factor,
        "kept": float(at_stem.sum()) / (len(images) * factor),
        "grown": float(at_stem.abs().sum()) / (len(images) * factor),
        "one_signed": max(uses["linear"].one_signed),
        "unaccounted": max(uses["linear"].unaccounted),
        "by_rule": {rule: seen.worst() for rule, seen in uses.items() if rule != "average" and seen.sums},
    }


def prepared(name: str, side: int, dtype: torch.dtype) -> tuple[nn.Module, Tensor, Tensor]:
    """The network, two images and their labels; the same in every precision."""
    torch.manual_seed(0)
    model = build_model(name, 10).to(dtype).eval()
    batch = torch.randn(6, 3, side, side).to(dtype)
    fit_norms(model, batch[2:])
    return model, batch[:2], torch.tensor([1, 7])


def fit_norms(model: nn.Module, images: Tensor) -> None:
    """Random scales and shifts, and the statistics of one batch: as after some training."""
    generator = torch.Generator().manual_seed(0)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.weight.data.copy_(0.5 + torch.rand(norm.num_features, generator=generator))
        norm.bias.data.copy_(0.3 * torch.randn(norm.num_features, generator=generator))
        norm.momentum = 1.0
        norm.train()  # the norms alone: no auxiliary heads, no dropout
    with torch.no_grad():
        model(images)
    model.eval()


def output_positions(model: nn.Module, image: Tensor) -> dict[str, int]:
    """Positions per channel at each convolution's output."""
    positions: dict[str, int] = {}

    def at(layer: str) -> Callable[..., None]:
        return lambda module, args, output: positions.update({layer: output[0, 0].numel()})

    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    handles = [module.register_forward_hook(at(layer)) for layer, module in layers]
    with torch.no_grad():
        model(image)
    for handle in handles:
        handle.remove()
    return positions


@contextmanager
def watched() -> Iterator[dict[str, Uses]]:
    """Collects what every use of every rule does to the sum of relevance."""
    uses = {name: Uses() for name in RULES}
    original = {name: rule.__dict__["backward"] for name, rule in RULES.items()}

    def watch(name: str, backward: Callable[..., Any]) -> Callable[..., Any]:
        def run(ctx: Any, r: Tensor | None) -> Any:
            layer = (ctx.site, ctx.x) if name == "linear" and hasattr(ctx, "x") else None
            found = backward(ctx, r)
            arrived = [t for t in (found if isinstance(found, tuple) else (found,)) if t is not None]
            if r is not None and arrived:
                total, size = sum(float(t.sum()) for t in arrived), float(r.abs().sum())
                uses[name].sums.append((total, float(r.sum()), size))
                if layer is not None and size:
                    expected, one_signed = balance(*layer, r)
                    uses[name].unaccounted.append(abs(total - expected) / size)
                    uses[name].one_signed.append(one_signed / size)
            return found

        return run

    for name, rule in RULES.items():
        rule.backward = staticmethod(watch(name, original[name].__func__))
    try:
        yield uses
    finally:
        for name, rule in RULES.items():
            rule.backward = original[name]


def balance(site: rules.LinearSite, x: Tensor, r: Tensor) -> tuple[float, float]:
    """What the linear rule should pass on, and the relevance at outputs with contributions of one sign only."""

    def contributions(same: Tensor, other: Tensor) -> Tensor:
        return site.map.forward(x.clamp_min(0), same) + site.map.forward(x.clamp_max(0), other)

    positive, negative = site.weight.clamp_min(0), site.weight.clamp_max(0)
    upper, lower = contributions(positive, negative), contributions(negative, positive)
    expected = 2 * r * upper / (upper + EPSILON) - r * lower / (lower - EPSILON)
    alone = (upper < EPSILON) | (lower > -EPSILON)
    return float(expected.sum()), float(r.abs()[alone].sum())


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    heads = ("net", "side", "finite", "layers", "kept", "grown", "one-signed", "unaccounted", "sum rule")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in rows:
        if not row["finite"]:
            lines.append(f"| {row['net']} | {row['side']} | no: {row['error']} | | | | | | |")
            continue
        sums = f"{row['by_rule']['sum']:.0e}" if "sum" in row["by_rule"] else ""
        lines.append(
            f"| {row['net'].removeprefix('torchvision:')} | {row['side']} | yes | {row['layers']} "
            f"| {row['kept']:.4f} | {row['grown']:.3g} | {row['one_signed']:.1%} | {row['unaccounted']:.0e} | {sums} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the table; write the rows as JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="*", default=list(NETS))
    record.add_out(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [coverage(name, NETS.get(name, 64)) for name in options.nets]
    print(table(rows))
    finite = sum(row["finite"] for row in rows)
    record.write(options.out, {"nets": len(rows), "finite": finite, "rows": rows})


if __name__ == "__main__":
    main()
