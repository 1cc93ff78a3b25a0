"""A hook of the site: pages and files that stand outside docs/ become part of it, and links follow them.

CHANGELOG.md, CONTRIBUTING.md and the benchmarks' page become pages. Any other file that a page links to (a record, a
manifest) is copied to files/ under its own path. So the same Markdown works in the repository and on the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

#: File of the repository -> page of the site.
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
    "docs/examples/quickstart.ipynb": "notebook.md",
    "README.md": "index.md",
}
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")
_ELSEWHERE = ("http://", "https://", "mailto:", "#")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of outside, and every file of the repository that a page links to."""
    root = Path(config.docs_dir).parent
    for outside, uri in PAGES.items():
        if outside.endswith(".md") and uri != "index.md":
            files.append(File.generated(config, uri, content=(root / outside).read_text(encoding="utf-8")))
    added = set()
    for file in list(files):
        if not file.src_uri.endswith(".md"):
            continue
        for _, link, _ in _LINK.findall(file.content_string):
            found = _in_repository(file.src_uri, link)
            copy = f"files/{found}"
            if found and not found.startswith("docs/") and found not in PAGES and copy not in added:
                if not (root / found).is_file():
                    continue  # MkDocs says so
                added.add(copy)
                files.append(File.generated(config, copy, abs_src_path=str(root / found)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to where the site has their targets."""

    def follow(match: re.Match[str]) -> str:
        opening, link, closing = match.groups()
        found = _in_repository(page.file.src_uri, link)
        if not found:
            return match.group()
        target = PAGES.get(found) or (
            found.removeprefix("docs/") if found.startswith("docs/") else f"files/{found}"
        )
        anchor = link.partition("#")[2]
        near = posixpath.relpath(target, posixpath.dirname(page.file.src_uri) or ".")
        return f"{opening}{near}{'#' + anchor if anchor else ''}{closing}"

    return _LINK.sub(follow, markdown)


def _in_repository(src_uri: str, link: str) -> str:
    """The path in the repository that a page's link means, "" for a link to elsewhere or within the page."""
    path = link.partition("#")[0]
    if not path or link.startswith(_ELSEWHERE):
        return ""
    source = next((outside for outside, uri in PAGES.items() if uri == src_uri), f"docs/{src_uri}")
    if src_uri == "index.md":
        source = "docs/index.md"
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
