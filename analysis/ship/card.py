"""The model card: what the exported model is, what it was measured to do, and how to use it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from analysis import text
from analysis.runs.widths import layer_widths

if TYPE_CHECKING:
    import pandas as pd


class Compared(Protocol):
    """What the card needs of a check."""

    @property
    def name(self) -> str: ...
    @property
    def logged(self) -> float: ...
    @property
    def measured(self) -> float: ...
    @property
    def note(self) -> str: ...


def model_card(
    row: pd.Series, manifest: dict[str, Any], proof: dict[str, Any], checks: Sequence[Compared], reason: str
) -> str:
    """Markdown. Numbers are those measured in the fresh process; costs of the baseline stand beside them."""
    config = manifest["config"]
    height, width = manifest["image_size"]
    parts = [
        f"# {config['model']['name']}, pruned while training: {row['model']} of {row['sweep']}",
        "",
        reason or f"{row['model']} was chosen by id.",
        "",
        *_numbers(row, proof),
        *_checks(checks, proof),
        "## Input and output",
        "",
        f"Input: float32 (N, {manifest['in_channels']}, {height}, {width}); pixels scaled to 0..1, then "
        f"(x - mean) / std per channel with mean {_list(manifest['mean'])} and std {_list(manifest['std'])}.",
        f"Output: logits (N, {manifest['num_classes']}) for {_classes(manifest)}.",
        "",
        "## Use",
        "",
        "```python",
        "import torch",
        "",
        'model = torch.export.load("model.pt2").module()   # needs torch only; any batch size',
        "",
        "from gcp_core.checkpoint import load_model",
        'model = load_model(".")                            # an ordinary module: fine-tune or prune further',
        "```",
        "",
        "`sample.npz` holds inputs and the logits they must give: test a deployment with it.",
        "",
        *_training(manifest),
        *_layers(manifest),
        "## Provenance",
        "",
        f"- MLflow run `{row['run_id']}`, configuration `{row['config_id']}`, seed {row['seed']}",
        f"- weights SHA-256 `{manifest['sha256']}`, data digest `{manifest['data_digest']}`",
        f"- trained with torch {manifest['torch']} on {manifest['device']}; proven on {proof['place']}",
        "",
        "## Limits",
        "",
        "Accuracy was measured on one validation and one test split and holds for images like those. The choice was made "
        "on validation data among many trials, which makes the validation number optimistic; the test number was "
        "not used to choose. Latency depends on the machine.",
        "",
    ]
    return "\n".join(parts)


def _numbers(row: pd.Series, proof: dict[str, Any]) -> list[str]:
    def base(name: str) -> str:
        value = row.get(f"baseline_{name}", float("nan"))
        return text.quantity(name, float(value))

    rows = [
        ("validation accuracy", f"{proof['val_accuracy']:.2f} %", base("val_accuracy")),
        ("test accuracy", f"{proof['test_accuracy']:.2f} %", base("test_accuracy")),
        ("multiply-adds, one image", text.quantity("macs", proof["macs"]), base("macs")),
        ("parameters", text.quantity("params", proof["params"]), base("params")),
        (
            "latency, batch 1, eager, measured in turns",
            f"{proof['latency_ms']:.3g} ms ({proof['latency_low_ms']:.3g} to {proof['latency_high_ms']:.3g})",
            f"{proof['dense_latency_ms']:.3g} ms",
        ),
        (
            "latency, share of the unpruned model's (95 %)",
            f"{proof['latency_share']:.3g} ({proof['latency_share_low']:.3g} to {proof['latency_share_high']:.3g})",
            "1",
        ),
    ]
    if proof.get("int8_val_accuracy") is not None:
        rows.insert(1, ("validation accuracy, int8 ONNX", f"{proof['int8_val_accuracy']:.2f} %", ""))
    lines = ["| | this model | unpruned baseline |", "|---|---|---|"]
    return [*lines, *(f"| {a} | {b} | {c} |" for a, b, c in rows), ""]


def _checks(checks: Sequence[Compared], proof: dict[str, Any]) -> list[str]:
    lines = [
        "## Proof",
        "",
        f"Rebuilt from weights and plans in a fresh process ({proof['place']}); MACs by torch's own counter.",
        "",
        "| check | logged | measured again |",
        "|---|---|---|",
    ]
    rows = (f"| {c.name} | {text.digits(c.logged)} | {text.digits(c.measured)}{c.note} |" for c in checks)
    return [*lines, *rows, ""]


def _training(manifest: dict[str, Any]) -> list[str]:
    config = manifest["config"]
    train, prune, data = config["train"], config.get("prune"), config["data"]
    path, polish = manifest.get("snapshot"), manifest.get("polish")
    epochs = path["epoch"] if path else train["epochs"]
    epochs += polish["epochs"] if polish else 0
    lines = [
        "## Training",
        "",
        f"- data `{data['name']}`, {epochs} epochs, batch {train['batch_size']}, {train['optimizer']} with "
        f"peak learning rate {train['lr']:g}, {train['schedule']} schedule",
    ]
    if path:
        lines += _path(path, train, prune)
        if polish:
            lines.append(
                f"- polished: {polish['epochs']} more epochs in one cycle from {train['restart']:g} of the peak learning "
                f"rate, no event, from the snapshot's weights (`{polish['from'][:12]}...`)"
            )
    elif prune:
        aim = prune["target"]
        target = "no target" if aim is None else f"target {100 * aim:g} % of {prune['of']}"
        lines.append(
            f"- pruning: criterion `{prune['criterion']}`, {_when(prune)} {_amount(prune)}, {target}, "
            f"residual mode `{prune['residual']}`"
        )
    return [*lines, ""]


def _when(prune: dict[str, Any]) -> str:
    """When the events of a single trial took place; manifests of older versions know no clock."""
    clock = prune.get("clock") or "interval"
    if clock == "end":
        return "once, after the last epoch,"
    if clock != "interval":
        return f"whenever the clock `{clock}` says so"
    if prune.get("start") == 0 and prune.get("until") == 0:
        return "once, before the first epoch,"
    return f"every {text.plural(prune['interval'], 'epoch').removeprefix('1 ')}"


def _amount(prune: dict[str, Any]) -> str:
    """What an event takes; allocators other than these two may leave some of it."""
    said = f"{prune['ratio']:g} of the units" if prune.get("ratio") else f"{prune['count']} units"
    allocator = prune.get("allocator") or "global"
    return said if allocator in ("global", "uniform") else f"at most {said}, by the allocator `{allocator}`"


def _path(snapshot: dict[str, Any], train: dict[str, Any], prune: dict[str, Any]) -> list[str]:
    """How a path came to this snapshot."""
    if prune.get("levels"):
        amount = "down to " + ", ".join(f"{100 * level:g}" for level in prune["levels"])
        amount += f" % of the {prune['of']} removed in turn"
    else:
        of = "units still alive" if prune["ratio_of"] == "units" else f"{prune['of']} still left"
        amount = f"each {prune['ratio']:g} of the {of}"
    return [
        f"- snapshot {snapshot['level']} of a path: {prune['start']} dense epochs, then {snapshot['level']} events, each "
        f"followed by a cycle of {prune['interval']} epochs from {train['restart']:g} of the peak learning rate",
        f"- pruning: criterion `{prune['criterion']}`, events {amount}, residual mode `{prune['residual']}`",
    ]


def _layers(manifest: dict[str, Any]) -> list[str]:
    widths = layer_widths(manifest)
    if not widths:
        return []
    lines = ["## Layers", "", "| layer | outputs left | of |", "|---|---|---|"]
    return [*lines, *(f"| {w.layer} | {w.after} | {w.before} |" for w in widths), ""]


def _classes(manifest: dict[str, Any]) -> str:
    """The names of the classes in the order of the logits; data may have none."""
    names = ", ".join(map(str, manifest["class_names"]))
    return names or f"the classes 0 to {manifest['num_classes'] - 1}, which have no names in the data"


def _list(values: Sequence[float]) -> str:
    return "[" + ", ".join(f"{v:.6g}" for v in values) + "]"
