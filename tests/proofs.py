"""Exports whose proof runs in the test's process: where not the proof is tested but what is done with an export."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.errors import VerificationError
from analysis.ship import export


@contextlib.contextmanager
def proven_here() -> Iterator[None]:
    """A fresh process takes seconds to import what is imported here; it measures the same."""

    def run_proof(
        work: Path,
        *,
        onnx: bool = False,
        int8: bool = False,
        openvino: bool = False,
        data_path: str | None = None,
    ) -> dict[str, Any]:
        from analysis.ship import prove

        wanted = {"--onnx": onnx, "--int8": int8, "--openvino": openvino}
        words = [str(work), str(work), *(word for word, asked in wanted.items() if asked)]
        words += ["--data-path", data_path] if data_path else []
        prove.main(words)
        proof = json.loads((work / export.PROOF).read_text())
        if "error" in proof:
            raise VerificationError(proof["error"], proof["where"], proof["hint"])
        return proof

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "run_proof", run_proof)
        yield
