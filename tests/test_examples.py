"""The examples in docs/ run as they stand, and so do the code blocks of the README."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))


def run(code: list[str]) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "docs" / "examples")}
    done = subprocess.run(
        [sys.executable, *code], capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda p: p.stem)
def test_an_example_runs_and_prunes(example):
    assert re.search(r"units removed|% of the MACs removed", run([str(example)]))


def test_the_readme_notebook_code_runs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 1
    run(["-c", blocks[0]])
