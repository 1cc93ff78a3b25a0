"""Every code block of the pages: Python runs, configs are accepted, commands exist with their options and keys.

Commands on ``runs/digits-demo`` are run for real, page by page, on a small sweep of the same name (marked integration).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import runpy
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click
import pytest
import yaml
from click.testing import CliRunner

from tests.integration import drivers
from tests.proofs import proven_here

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    page
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/gallery/*.md"))
    if page.name != "CHANGELOG.md"
)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: text: what a program says, formulas. Nothing to run.
LANGUAGES = {"bash", "python", "yaml", "text"}
#: Commands that need a cluster, a server, Docker or other data: their options are checked, and no more.
ELSEWHERE = (
    "--address",
    "--serve",
    "/data/",
    "/shared/",
    "runs/digits-criteria",
    "cifar10",
    "digits_criteria",
)


@dataclass(frozen=True)
class Block:
    """One fenced block: where it stands, its language, its text."""

    page: str
    number: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.number}:{self.language or 'none'}"


def blocks() -> list[Block]:
    return [
        Block(str(page.relative_to(ROOT)), number, language, text)
        for page in PAGES
        for number, (language, text) in enumerate(_FENCE.findall(page.read_text(encoding="utf-8")))
    ]


def lines(block: Block) -> list[str]:
    """The commands of a block: continued lines joined, comments left out."""
    joined = block.text.replace("\\\n", " ").splitlines()
    return [line for line in joined if shlex.split(line, comments=True)]


COMMANDS = [(str(block), line) for block in blocks() if block.language == "bash" for line in lines(block)]


@pytest.mark.parametrize("block", blocks(), ids=str)
def test_every_block_says_what_it_is(block):
    assert block.language in LANGUAGES | ({""} if block.page == "CONTRIBUTING.md" else set())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_block_hides_behind_indentation(page):
    """An indented command would be seen by no test."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    assert re.findall(r"^    (?:gcp-|python |make |ray ).*$", text, re.MULTILINE) == []


@pytest.mark.parametrize("block", [b for b in blocks() if b.language == "yaml"], ids=str)
def test_a_config_of_a_page_is_accepted(block):
    from sweeps.config.sweep_config import load_config

    load_config({"name": "from-a-page", **yaml.safe_load(block.text)})


@pytest.mark.parametrize(("where", "line"), COMMANDS, ids=lambda value: value[:60])
def test_a_command_of_a_page_exists_with_its_options_and_keys(where, line):
    check(shlex.split(line, comments=True))


def test_an_option_or_key_or_file_that_is_none_is_found():
    wrong = (
        "gcp-sweep run configs/demo.yaml --adress auto",
        "gcp-sweep run configs/demo.yaml search.trails=3",
        "gcp-sweep run configs/no_such.yaml",
        "gcp-analyze select runs/x --bset accuracy",
        "make sandwich",
        "python -m benchmarks.no_such",
        "python -m benchmarks.evidence.path_front --no-such-option",
        "python -m benchmarks.search.searched --work W",
        "python -m benchmarks.search.searched --path /data/cifar10 --work W --sides nobody",
        "ray job submit --no-such-option",
        "kubectl apply -f deploy/no_such.yaml",
        "curl example.org",
    )
    for line in wrong:
        with pytest.raises((AssertionError, click.UsageError)):
            check(shlex.split(line))


# --- what a command names -----------------------------------------------------------------------------------------


def check(words: list[str]) -> None:
    """Raise if a command names a program, an option, a key or a file of ours that does not exist."""
    program, rest = words[0], words[1:]
    if program in ("gcp-sweep", "gcp-analyze", "mlflow", "ray"):
        if "--" in rest:
            check(rest[rest.index("--") + 1 :])
            rest = [*rest[: rest.index("--")], "--", "true"]
        _parse(_program(program), rest)
        if program == "gcp-sweep":
            _check_keys(rest)
        _check_files(rest)
    elif program == "sbatch":
        script = next(place for place, word in enumerate(rest) if not word.startswith("--"))
        _check_files(rest[script : script + 1])
        check(["gcp-sweep", "run", *rest[script + 1 :]])
    elif program == "make":
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert {word for word in rest if "=" not in word} <= targets
    elif program in ("python", "docker", "kubectl", "pip", "pytest"):
        _check_files([part for word in rest for part in word.split("=")])
        if program == "python":
            _check_script(rest)
    else:
        raise AssertionError(f"no test knows {program}")


def _program(name: str) -> click.Command:
    if name == "gcp-sweep":
        from sweeps.cli import main

        return main
    if name == "gcp-analyze":
        from analysis.cli.program import main as analyze

        return analyze
    if name == "mlflow":
        from mlflow.cli import cli

        return cli
    from ray.scripts.scripts import cli as ray

    return ray


def _parse(command: click.Command, words: list[str]) -> None:
    """Let click parse without running anything."""
    context = click.Context(command)
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, words[0]
        context, command, words = click.Context(found, parent=context, info_name=words[0]), found, words[1:]
    # "..." stands for more of the same.
    command.make_context(context.info_name, [word for word in words if word != "..."], parent=context.parent)


def _check_keys(words: list[str]) -> None:
    from sweeps.config.sweep_config import all_paths

    known = all_paths()
    for word in words:
        key = word.split("=")[0]
        if "=" in word and not word.startswith("-"):
            assert key in known or key.startswith("prune.options."), key


def _check_files(words: list[str]) -> None:
    for word in words:
        if re.match(r"(configs|deploy|benchmarks|docs)/[\w/.-]+\.\w+$", word):
            assert (ROOT / word).is_file(), word


def _check_script(words: list[str]) -> None:
    """Let the script's own parser read the words: an option may be declared in another module."""
    if "-m" in words:
        place = words[words.index("-m") + 1].replace(".", "/") + ".py"
        said = words[words.index("-m") + 2 :]
    else:
        place, said = words[0], words[1:]
    assert (ROOT / place).is_file(), place

    class Parsed(Exception):
        """The parser took the words."""

    def parse(parser: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> NoReturn:
        _, unknown = parser.parse_known_args(args, namespace)
        assert not unknown, (place, unknown)
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse)
        patch.setattr(sys, "argv", [place, *said])
        patch.syspath_prepend(ROOT)
        try:
            runpy.run_path(str(ROOT / place), run_name="__main__")
        except Parsed:
            return
        except SystemExit as error:
            raise AssertionError(f"{place} refuses {said}") from error
    raise AssertionError(f"{place} ran without reading its words")


# --- what a command does ------------------------------------------------------------------------------------------


def small_demo() -> dict[str, Any]:
    """configs/demo.yaml, so small that its four paths take seconds; every path runs to its end and keeps its weights."""
    config = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text(encoding="utf-8"))
    config["data"]["train_images"] = 300
    config["model"]["width"] = 0.25
    config["prune"] |= {
        "start": {"choice": [1, 2, 3]},
        "interval": 1,
        "ratio": {"choice": [0.3, 0.4]},
        "target": 0.85,
    }
    config["search"] |= {"sampler": "random", "trials": 4, "concurrency": 1, "min_gain": 0, "keep": "all"}
    config["baseline"] = {"epochs": 3}
    return config


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the repository after ``make demo``, with a smaller sweep in runs/digits-demo."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "configs").mkdir()
    (folder / "configs" / "demo.yaml").write_text(yaml.safe_dump(small_demo(), sort_keys=False))
    _sweep(["run", "configs/demo.yaml"], folder)
    return folder


def _sweep(words: list[str], folder: Path) -> None:
    """``gcp-sweep`` in a process of its own, as Ray wants it."""
    searched = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part)
    done = drivers.run(drivers.PROGRAM, words, cwd=folder, PYTHONPATH=searched)
    assert done.returncode == 0, done.stdout + done.stderr


def _of_page(page: str) -> list[Block]:
    return [block for block in blocks() if block.page == page and block.language in ("bash", "python")]


def _is_run(line: str) -> bool:
    named = "runs/digits-demo" in line or "configs/demo.yaml" in line
    return line.startswith("gcp-") and named and not any(word in line for word in ELSEWHERE)


RUN = sorted(
    {b.page for b in blocks() if b.language == "python"}
    | {w.split(":")[0] for w, line in COMMANDS if _is_run(line)}
)


@pytest.fixture
def short_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line of ``bench`` takes the fewest rounds, not up to two seconds: nothing here goes by what they say."""
    from analysis.ship import bench

    real = bench.compare_calls
    monkeypatch.setattr(bench, "compare_calls", lambda *what, **how: real(*what, **{**how, "seconds": 0.0}))


@pytest.mark.integration
@pytest.mark.timeout(2400)
@pytest.mark.usefixtures("short_bench")
@pytest.mark.parametrize("page", RUN)
def test_the_blocks_of_a_page_run_one_after_the_other(page, demo, tmp_path, monkeypatch):
    import numpy as np

    folder = tmp_path / "repository"
    shutil.copytree(demo, folder)
    monkeypatch.chdir(folder)
    if any("gcp-analyze register" in block.text for block in _of_page(page)):
        _run(["gcp-sweep", "run", "configs/demo.yaml"], folder)  # tells MLflow the copy's place
    names = {"images": np.zeros((2, 1, 8, 8), dtype=np.float32)}
    run = 0
    for block in _of_page(page):
        if block.language == "python":
            exec(compile(block.text, str(block), "exec"), {**names, "__name__": "a_page"})
            run += 1
            continue
        for line in filter(_is_run, lines(block)):
            _run(shlex.split(line, comments=True), folder)
            run += 1
    assert run


def _run(words: list[str], folder: Path) -> None:
    if words[:2] == ["gcp-sweep", "run"] and any("=" in word for word in words):
        _sweep(words[1:], folder)  # starts Ray: there is more to train
        return
    with contextlib.chdir(folder), proven_here():
        done = CliRunner().invoke(_program(words[0]), words[1:])
    # Nobody runs the sweep that `stop` is asked to end; a sweep this small may leave no new point to advise, and have no
    # model within narrow limits. All else does what the page says.
    allowed = {"stop": (0, 1, 2), "advise": (0, 2), "select": (0, 3)}.get(words[1], (0,))
    assert done.exit_code in allowed, f"{' '.join(words)}\n{done.output}\n{done.exception!r}"


def test_most_commands_on_a_sweep_are_run_and_not_only_read():
    ours = [line for _, line in COMMANDS if line.startswith("gcp-")]
    assert sum(map(_is_run, ours)) >= 0.6 * len(ours)
