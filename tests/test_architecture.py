"""The plan of the house: which rooms there are, who may import whom, and what importing costs."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("gcp_core", "sweeps", "analysis")
HEAVY = ("torch", "ray", "mlflow", "optuna")

#: The rooms of each package in their order: a room may use itself and what stands above it, never what stands below.
#: The files in a line that are no folders are rooms of one file. What is in brackets are names for users (faces).
ROOMS = {
    "gcp_core": [
        "redaction schema errors extras",
        "config seeds plan scatter factory slots cachedir",
        "methods",
        "models",
        "data",
        "cost",
        "haste",
        "groups",
        "relevance",
        "rewrites",
        "criteria",
        "repairs penalties",
        "allocators",
        "schedule",
        "pruning",
        "records",
        "steps",
        "training",
        "export",
        "testing",
        "selection surgery checkpoint",
    ],
    "sweeps": [
        "config",
        "records",
        "storage",
        "strategy",
        "worker",
        "tracking",
        "conduct",
        "driver",
        "commands",
        "cli",
    ],
    "analysis": [
        "errors text plain environment",
        "runs",
        "front",
        "evidence",
        "choose",
        "ship",
        "show",
        "cli",
        "pareto",
    ],
}
#: Names that users import; the house itself uses the rooms behind them.
FACES = {
    "gcp_core.selection",
    "gcp_core.surgery",
    "gcp_core.checkpoint",
    "analysis.pareto",
    *PACKAGES,
}
#: The arrows between packages: from -> what may be named there.
ARROWS = {
    "gcp_core": {},
    "sweeps": {"gcp_core": ("",), "analysis": ("front", "show")},
    "analysis": {"gcp_core": ("",)},
}
#: More files than this in a folder, or lines in a file, ask to be split.
MANY_FILES, MANY_LINES = 15, 420


def modules() -> dict[str, Path]:
    """Dotted name -> file of every module of the three packages."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def named(source: str) -> tuple[tuple[str, str], ...]:
    """(module, name or "") of every import in a file's text, also inside functions and for type checkers only."""
    found: list[tuple[str, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += ((node.module, alias.name) for alias in node.names)
    return tuple(found)


def arrows(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Module -> the modules among ``sources`` that it imports."""
    graph: dict[str, set[str]] = {}
    for module, source in sources.items():
        used = {f"{m}.{name}" if f"{m}.{name}" in sources else m for m, name in named(source)}
        graph[module] = used & set(sources)
    return graph


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Every set of modules that import each other in a loop (what is left when leaves and roots are taken away)."""
    left = {module: set(used) for module, used in graph.items()}
    while True:
        used = set().union(*left.values()) if left else set()
        idle = [m for m in left if not (left[m] & set(left)) or m not in used]
        if not idle:
            return [sorted(left)] if left else []
        for module in idle:
            del left[module]
        for module in left:
            left[module] &= set(left)


def sources() -> dict[str, str]:
    return {name: path.read_text(encoding="utf-8") for name, path in modules().items()}


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports(path: Path) -> set[str]:
    """Every module name imported anywhere in a file, also inside functions."""
    found = set(named(path.read_text(encoding="utf-8")))
    return {module for module, _ in found} | {f"{module}.{name}" for module, name in found if name}


def users(package: str, *, of: str) -> set[str]:
    """Files of ``package`` that import ``of`` or anything below it."""
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / package).rglob("*.py")
        if any(name == of or name.startswith(f"{of}.") for name in imports(path))
    }


# --- rooms and arrows ---------------------------------------------------------------------------------------------


def test_no_module_imports_itself_by_a_detour():
    assert circles(arrows(sources())) == []


@pytest.mark.parametrize("inside", ["", "def later():\n    "])
def test_a_circle_put_in_by_hand_is_found(inside):
    """Two real rooms, one import added in the wrong direction, on top of the file or inside a function."""
    text = sources()
    text["sweeps.records.job"] += f"\n{inside}from sweeps.records.ledger import Ledger\n"
    (found,) = circles(arrows(text))
    assert {"sweeps.records.job", "sweeps.records.ledger"} <= set(found)


def test_every_room_is_on_the_plan():
    for package in PACKAGES:
        there = {path.stem for path in (ROOT / package).iterdir() if path.suffix == ".py" or _is_room(path)}
        assert there - {"__init__"} == set(" ".join(ROOMS[package]).split())


def _is_room(path: Path) -> bool:
    return path.is_dir() and any(path.glob("*.py"))


def upward(graph: Mapping[str, set[str]]) -> list[str]:
    """Arrows to a room that stands below, within a package."""
    floors = {
        (package, room): floor
        for package, lines in ROOMS.items()
        for floor, line in enumerate(lines)
        for room in line.split()
    }
    return [
        f"{module} -> {used}"
        for module, all_used in graph.items()
        for used in all_used
        if module.split(".")[0] == used.split(".")[0] and room_of(module) and room_of(used)
        if floors[module.split(".")[0], room_of(used)] > floors[module.split(".")[0], room_of(module)]
    ]


def to_faces(graph: Mapping[str, set[str]]) -> list[str]:
    return [f"{module} -> {face}" for module, used in graph.items() for face in used & FACES]


def between_packages(graph: Mapping[str, set[str]]) -> list[str]:
    """Arrows from package to package that are not on the plan."""
    found = []
    for module, used in graph.items():
        package = module.split(".")[0]
        for other in used:
            target = other.split(".")[0]
            allowed = ARROWS[package].get(target, ())
            if target != package and "" not in allowed and room_of(other) not in allowed:
                found.append(f"{module} -> {other}")
    return found


def test_a_room_uses_only_what_stands_above_it():
    assert upward(arrows(sources())) == []


def test_the_house_does_not_use_the_names_it_shows_to_users():
    """A room asks the room that knows; the faces may then be rebuilt without touching the rooms."""
    assert to_faces(arrows(sources())) == []


def test_the_arrows_between_packages():
    assert between_packages(arrows(sources())) == []


@pytest.mark.parametrize(
    ("found_by", "module", "line", "arrow"),
    [
        (upward, "sweeps.records.job", "from sweeps.driver.launch import run", "sweeps.driver.launch"),
        (upward, "gcp_core.cost.macs", "import gcp_core.training.trial", "gcp_core.training.trial"),
        (to_faces, "gcp_core.cost.macs", "from gcp_core.surgery import apply_plan", "gcp_core.surgery"),
        (between_packages, "analysis.front.pareto", "import sweeps.cli", "sweeps.cli"),
        (between_packages, "sweeps.strategy.front", "from analysis.runs import load", "analysis.runs.load"),
        (between_packages, "gcp_core.plan", "from analysis.text import plural", "analysis.text"),
    ],
)
def test_an_arrow_put_in_by_hand_is_found(found_by, module, line, arrow):
    text = sources()
    text[module] += f"\ndef later():\n    {line}\n"
    assert found_by(arrows(text)) == [f"{module} -> {arrow}"]


def test_no_folder_and_no_file_grows_past_its_room():
    files = [path for top in (*PACKAGES, "tests") for path in (ROOT / top).rglob("*.py")]
    folders = Counter(str(path.parent.relative_to(ROOT)) for path in files)
    assert {folder: number for folder, number in folders.items() if number > MANY_FILES} == {}
    lines = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files
    }
    assert {file: number for file, number in lines.items() if number > MANY_LINES} == {}


def test_every_room_says_what_it_is_for():
    for name, path in modules().items():
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), name


def test_every_package_tells_type_checkers_that_it_is_typed():
    assert [package for package in PACKAGES if not (ROOT / package / "py.typed").is_file()] == []


def test_tests_mirror_the_tree():
    """A folder of tests has the name of the room that it tests."""
    for package in PACKAGES:
        for folder in (ROOT / "tests" / package).iterdir():
            if folder.is_dir() and any(folder.glob("test_*.py")):
                assert _is_room(ROOT / package / folder.name), folder


# --- who may know which tool --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stranger", ["ray", "optuna", "mlflow", "pydantic", "pandas", "yaml", "sweeps", "analysis"]
)
def test_the_core_does_not_know_the_tools_around_it(stranger):
    assert users("gcp_core", of=stranger) == set()


@pytest.mark.parametrize("stranger", ["ray", "sweeps"])
def test_analysis_does_not_know_ray_or_sweeps(stranger):
    assert users("analysis", of=stranger) == set()


def test_only_shipping_brings_torch_into_analysis():
    assert {Path(path).parent.name for path in users("analysis", of="torch")} == {"ship"}


def test_only_one_file_of_analysis_reads_mlflow():
    """store reads; publish and register write."""
    assert users("analysis", of="mlflow") == {
        "analysis/runs/store.py",
        "analysis/show/publish.py",
        "analysis/ship/register.py",
    }


def test_trial_processes_never_import_mlflow():
    assert {str(Path(path).parent) for path in users("sweeps", of="mlflow")} == {
        "sweeps/tracking",
        "sweeps/driver",
    }
    assert loaded_by("import sweeps.worker.trial") & {"mlflow", "torch"} == set()


def test_ray_is_known_where_trials_are_run_and_nowhere_else():
    assert {path.split("/")[1] for path in users("sweeps", of="ray")} == {"worker", "driver"}


# --- what importing costs -----------------------------------------------------------------------------------------


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
    code = "from gcp_core.training import run_trial\nassert not {'pyarrow', 'PIL', 'sklearn', 'onnx'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", f"import sys\n{code}"], check=True, cwd=ROOT)


@pytest.mark.parametrize("train", [{}, {"optimizer": "adamw", "lr": 0.01}], ids=["sgd", "adamw"])
def test_a_trial_that_compiles_nothing_does_not_load_torchs_compiler(train):
    """It would cost every process that trains 1.7 s; scores, surgery, costs and a checkpoint are among what is done."""
    code = f"""
import sys, tempfile
from gcp_core.config import DataConfig, ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.training import run_trial
trial = TrialConfig(
    data=DataConfig("digits", val_share=0.1, train_images=64),
    model=ModelConfig("resnet20", width=0.5),
    train=TrainConfig(batch_size=16, epochs=3, **{train!r}),
    prune=PruneConfig(interval=1, ratio=0.3, target=0.3),
)
with tempfile.TemporaryDirectory() as folder:
    assert run_trial(trial, checkpoint_dir=folder).finals["macs_removed"] > 0
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_names_users_import_are_there():
    """DESIGN section 3, and the ten lines of the README."""
    code = """
import importlib
for path in '''gcp_core.models.build_model gcp_core.relevance.channel_relevance
    gcp_core.relevance.feature_relevance_scores gcp_core.groups.find_groups gcp_core.selection.select_channels
    gcp_core.selection.Budget gcp_core.surgery.apply_plan gcp_core.surgery.remove_channels
    gcp_core.surgery.gate_channels gcp_core.cost.measure_cost gcp_core.training.run_trial
    gcp_core.checkpoint.load_model sweeps.run sweeps.Launch sweeps.load_config analysis.load
    analysis.pareto.front'''.split():
    module, _, name = path.rpartition(".")
    assert callable(getattr(importlib.import_module(module), name)), path
import analysis
assert analysis.pareto.front and analysis.select.choose and analysis.export.export
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_logged_name_has_unit_and_text():
    from gcp_core.schema import FINALS, PER_EPOCH, STATUSES

    for quantity in [*FINALS.values(), *PER_EPOCH.values()]:
        assert quantity.unit, quantity
        assert quantity.text, quantity
        assert quantity.better in ("max", "min", None), quantity
    assert len(FINALS) + len(PER_EPOCH) <= 24, "at most 24 metric keys per run"
    assert [s.name for s in STATUSES.values() if s.on_front] == ["complete"]
