"""The reference pages are those that the code gives: every key, command, option and public name."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gcp_core.errors import ConfigError
from sweeps.config.sweep_config import all_paths, load_config

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "reference"


MAKE = """
import json, runpy
made = runpy.run_path("docs/reference/make.py", run_name="reference")
pages = {name: page() for name, page in made["PAGES"].items()}
print(json.dumps({"pages": pages, "names": made["public_names"](), "modules": made["PUBLIC"]}))
"""


@pytest.fixture(scope="module")
def made():
    """The pages, made in a process of its own: fixtures of other tests put other functions in the place of ours."""
    done = subprocess.run([sys.executable, "-c", MAKE], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ["config.md", "commands.md", "names.md", "python.md"])
def test_a_reference_page_is_what_the_code_gives_today(made, name):
    assert (REFERENCE / name).read_text(encoding="utf-8") == made["pages"][name], "make reference"


def test_every_key_of_a_config_has_a_sentence_and_no_other_key_has_one():
    texts = yaml.safe_load((REFERENCE / "keys.yaml").read_text(encoding="utf-8"))
    assert sorted(texts) == sorted(all_paths())
    assert all(text.strip().endswith((".", "`.")) for text in texts.values()), (
        "a sentence ends in a full stop"
    )


def test_every_key_of_a_config_stands_on_its_page():
    page = (REFERENCE / "config.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| `([\w.]+)` \|", page, re.MULTILINE)) == sorted(all_paths())


def test_every_key_of_a_trial_has_a_tick_but_the_one_that_cannot_be_a_range(made):
    rows = re.findall(
        r"^\| `((?:data|model|train|prune)\.\w+)` \|.*\| (✓?) \|$", made["pages"]["config.md"], re.MULTILINE
    )
    assert len(rows) > 40
    assert [key for key, tick in rows if not tick] == ["train.processes"]
    with pytest.raises(ConfigError, match=r"train\.processes: is not searched"):
        load_config({"name": "a", "train": {"processes": {"choice": [1, 2]}}})


def test_every_public_name_of_the_three_packages_stands_on_the_python_page(made):
    page = (REFERENCE / "python.md").read_text(encoding="utf-8")
    for module, names in made["names"].items():
        assert f"## {module}\n" in page
        for name in names:
            assert f"::: {name}\n" in page
    for package in ("sweeps", "analysis"):
        listed = importlib.import_module(package).__all__
        for name in listed:
            shown = f"## {package}.{name}\n" in page or re.search(
                rf"^::: {package}\.[\w.]*\b{name}$", page, re.MULTILINE
            )
            assert shown, f"{package}.{name}"


def test_every_module_of_gcp_core_that_users_import_is_on_the_page(made):
    """The faces and rooms that CHANGELOG promises to keep."""
    promised = re.search(r"These import paths stay: (.*?);", (ROOT / "CHANGELOG.md").read_text(), re.DOTALL)
    names = {
        word.removeprefix("gcp_core").lstrip(".") for word in re.findall(r"`([\w.]+)`", promised.group(1))
    }
    assert names - set(made["modules"]["gcp_core"]) == set()
