"""Who may import whom (the arrows of the house), and what importing costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "ray", "mlflow", "optuna")


def imports(path: Path) -> set[str]:
    """Every module name imported anywhere in a file, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def users(package: str, *, of: str) -> set[str]:
    """Files of ``package`` that import ``of`` or anything below it."""
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / package).rglob("*.py")
        if any(name == of or name.startswith(f"{of}.") for name in imports(path))
    }


@pytest.mark.parametrize(
    "stranger", ["ray", "optuna", "mlflow", "pydantic", "pandas", "yaml", "sweeps", "analysis"]
)
def test_the_core_does_not_know_the_tools_around_it(stranger):
    assert users("gcp_core", of=stranger) == set()


@pytest.mark.parametrize("stranger", ["ray", "sweeps"])
def test_analysis_does_not_know_ray_or_sweeps(stranger):
    assert users("analysis", of=stranger) == set()


def test_only_export_brings_torch_into_analysis():
    assert {Path(path).stem for path in users("analysis", of="torch")} <= {"export", "prove"}


def test_only_one_file_of_analysis_reads_mlflow():
    """load reads; publish, export and register write."""
    assert {Path(path).stem for path in users("analysis", of="mlflow")} <= {
        "load",
        "publish",
        "export",
        "register",
    }


def test_trial_processes_never_import_mlflow():
    assert users("sweeps", of="mlflow") <= {"sweeps/tracking.py", "sweeps/preflight.py"}
    assert "mlflow" not in imports(ROOT / "sweeps" / "trial.py")


def test_sweeps_takes_arrays_and_writers_from_analysis_but_reads_nothing():
    allowed = {"analysis.pareto", "analysis.anchors", "analysis.figures", "analysis.publish"}
    for path in (ROOT / "sweeps").rglob("*.py"):
        used = {".".join(name.split(".")[:2]) for name in imports(path) if name.split(".")[0] == "analysis"}
        assert used - {"analysis"} <= allowed, path


def loaded_by(code: str) -> set[str]:
    """Heavy modules that are loaded after running ``code`` in a fresh interpreter."""
    probe = f"import sys\n{code}\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.splitlines()[-1].split())


def test_importing_analysis_loads_neither_torch_nor_ray():
    assert loaded_by("import analysis") & {"torch", "ray"} == set()


@pytest.mark.parametrize("program", ["sweeps.cli", "analysis.cli"])
def test_help_imports_nothing_heavy(program):
    code = f"""
import contextlib, io
from {program} import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main(["--help"])
"""
    assert loaded_by(code) == set()


def test_the_core_alone_loads_no_optional_package():
    code = "import gcp_core.training\nassert not {'pyarrow', 'PIL', 'sklearn', 'onnx'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", f"import sys\n{code}"], check=True, cwd=ROOT)


def test_no_python_file_grows_past_its_room():
    """A file past 450 lines is asking to be split (house rule 1)."""
    long = {
        str(path.relative_to(ROOT)): lines
        for package in ("gcp_core", "sweeps", "analysis")
        for path in (ROOT / package).rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 450
    }
    assert long == {}


def test_every_logged_name_has_unit_and_text():
    from gcp_core.schema import FINALS, PER_EPOCH, STATUSES

    for quantity in [*FINALS.values(), *PER_EPOCH.values()]:
        assert quantity.unit, quantity
        assert quantity.text, quantity
        assert quantity.better in ("max", "min", None), quantity
    assert len(FINALS) + len(PER_EPOCH) <= 20, "at most 20 metric keys per run"
    assert [s.name for s in STATUSES.values() if s.on_front] == ["complete"]
