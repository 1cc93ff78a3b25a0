"""The GPU kit: what can be known of this tool on one GPU, in calls of a few minutes, each leaving its records.

    make gpu                                             # on a machine of one's own
    python -m benchmarks.gpu.kit --data gpu_data         # needs torch, torchvision and NumPy, nothing else
    python -m benchmarks.gpu.kit --smoke                 # on any CPU: that it runs

Call it again until it says that nothing is left. A piece that has its record is passed over, another goes on with the
parts that it has not measured yet, and the long trainings of the last piece go on from their last epoch. A call ends
after ``--minutes``, or when all is done; a part that has begun is brought to its end. CIFAR-10 for ``--data`` comes from
``benchmarks/gpu/images.py``; without it the pieces that measure time take made images, and the trainings are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import record
from benchmarks.gpu.bench import Kit, OutOfTime
from benchmarks.gpu.checks import checks
from benchmarks.gpu.density import density
from benchmarks.gpu.evidence import evidence
from benchmarks.gpu.speed import event, pipeline, relevance, step

RECORDS = record.RESULTS / "gpu"
PIECES = {
    "checks": checks,
    "step": step,
    "pipeline": pipeline,
    "relevance": relevance,
    "event": event,
    "density": density,
    "evidence": evidence,
}


def run(kit: Kit, out: Path, wanted: list[str], again: bool) -> list[str]:
    """Run what has no record yet; what is left."""
    left = []
    for name in wanted:
        file = out / f"{name}.json"
        if not again and _finished(file):
            print(f"{name}: there is {file}", flush=True)
            continue
        if kit.left_s < 0:
            left.append(name)
            continue
        if again:
            kit.kept(name).unlink(missing_ok=True)
        print(f"{name}:", flush=True)
        begun = time.monotonic()
        try:
            results = PIECES[name](kit)
        except OutOfTime:
            left.append(name)
            continue
        with contextlib.redirect_stdout(io.StringIO()):
            record.write(file, {"minutes": round((time.monotonic() - begun) / 60, 2), **results})
        left += [name] if results.get("left") else []
    return left


def _finished(file: Path) -> bool:
    if not file.exists():
        return False
    results: dict[str, Any] = json.loads(file.read_text())["results"]
    return not results.get("left") and not results.get("skipped")


def main() -> None:
    """Run the kit for a while."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pieces", nargs="*", metavar="PIECE", help=f"of {', '.join(PIECES)}; none = all")
    parser.add_argument("--data", type=Path, help="folder of images.py; none = made images")
    parser.add_argument("--work", type=Path, default=Path("runs/gpu"), help="where long trainings lie")
    parser.add_argument("--out", type=Path, help="folder of the records")
    parser.add_argument("--minutes", type=float, default=8.0, help="a call takes about so long at most")
    parser.add_argument("--smoke", action="store_true", help="the smallest size, on any device")
    parser.add_argument("--again", action="store_true", help="also what has a record")
    args = parser.parse_args()
    unknown = [name for name in args.pieces if name not in PIECES]
    if unknown:
        parser.error(f"{', '.join(unknown)}: no such piece; there are {', '.join(PIECES)}")
    if args.data is not None and not (args.data / "cifar10.npz").exists():
        parser.error(f"--data {args.data}: no cifar10.npz there; benchmarks/gpu/images.py makes it")
    if not args.smoke and not torch.cuda.is_available():
        parser.error("torch sees no GPU; --smoke runs the kit in its smallest size on a CPU")
    out = args.out or (args.work / "records" if args.smoke else RECORDS)
    kit = Kit(args.smoke, args.data, args.work, time.monotonic() + 60 * args.minutes)
    left = run(kit, out, args.pieces or list(PIECES), args.again)
    print(f"records: {out}", flush=True)
    print(f"left: {', '.join(left)}; call it again" if left else "nothing is left", flush=True)
    failed = out / "checks.json"
    if failed.exists() and not json.loads(failed.read_text())["results"].get("holds", True):
        print("checks: not all hold", flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
