"""What the pages name is there: files, folders, links and anchors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    str(page.relative_to(ROOT))
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "benchmarks" / "README.md")
)
#: `path/to/file.py`, `folder/`, `file.py`; a path may hold * as in a shell.
_CODE = re.compile(r"`([\w.*/-]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_COMMENT = re.compile(r"#.*")
_FILE = re.compile(r"[\w*-]+(?:/[\w.*-]+)*\.(?:py|md|json|jsonl|csv|png|ya?ml|toml|lock)")
PACKAGES = ("gcp_core", "sweeps", "analysis")
#: Folders of this repository: a path that begins with one of them is one of ours.
TOP = (*PACKAGES, "tests", "docs", "benchmarks", "configs", "deploy")
#: Files that a sweep, an export or a user's own project holds; and what benchmarks print without their folder.
ELSEWHERE = {
    "sweep.json", "config.yaml", "outcome.json", "result.json", "manifest.json", "proof.json", "MODEL_CARD.md",
    "my.yaml", "best.yaml", "utils.py", "front.csv", "sweep.yaml", "bench.json",
}  # fmt: skip


def named(text: str) -> set[str]:
    """What a page says in code marks that looks like a file or a folder of this repository."""
    found = set()
    for word in _CODE.findall(text):
        top, _, rest = word.partition("/")
        if ((rest or word.endswith("/")) and top in TOP) or (_FILE.fullmatch(word) and word not in ELSEWHERE):
            found.add(word)
    return found


def missing(words: set[str], near: Path) -> list[str]:
    """Words that are a file neither from the root, nor beside the page, nor in a package or a folder named with it."""
    folders = [ROOT, near, near / "results", *(ROOT / package for package in PACKAGES)]
    folders += [(ROOT / word).parent if "." in word else ROOT / word for word in words if "/" in word]
    return sorted(word for word in words if not any(any(folder.glob(word)) for folder in folders))


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert missing(named(text), (ROOT / page).parent) == []


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_somewhere(page):
    path = ROOT / page
    broken = []
    for link in _LINK.findall(path.read_text(encoding="utf-8")):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        file, _, anchor = link.partition("#")
        target = path if not file else path.parent / file
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    assert broken == []


def _anchors(page: Path) -> set[str]:
    """The anchors that a Markdown viewer makes of headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_file_that_a_comment_of_pyproject_names_exists():
    comments = _COMMENT.findall((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    words = {word for comment in comments for word in _FILE.findall(comment)}
    assert len(words) > 10
    assert missing(words, ROOT) == []


def test_a_page_that_names_a_file_that_is_gone_is_found():
    assert named("see `gcp_core/training.py`, `sweeps/` and `x = 1`, `a/b`") == {
        "gcp_core/training.py",
        "sweeps/",
    }
    assert missing({"gcp_core/training.py", "gcp_core/training/", "sweeps/no_room/"}, ROOT) == [
        "gcp_core/training.py",
        "sweeps/no_room/",
    ]
    assert _LINK.findall("[a](docs/b.md#c)") == ["docs/b.md#c"]


def rooms_on_the_page(package: str) -> set[str]:
    """The first column of a package's table on the architecture page."""
    table = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split(f"| `{package}/`: ")[1]
    cells = [line.split("|")[1] for line in table.split("\n\n")[0].splitlines()[2:]]
    return {word.rstrip("/").removesuffix(".py") for cell in cells for word in _CODE.findall(cell)}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_architecture_page_has_every_room_and_no_other(package):
    there = {
        path.stem
        for path in (ROOT / package).iterdir()
        if path.suffix == ".py" or (path.is_dir() and any(path.glob("*.py")))
    }
    assert rooms_on_the_page(package) == there - {"__init__"}
