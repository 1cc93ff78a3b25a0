"""A hook of the site: the build fails if a page would load anything from another place when somebody looks at it."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError

_LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video)\b[^>]*\bsrc=["']?(?:https?:)?//[^"'>\s]*"""
    r"""|<link\b(?=[^>]*\brel=["']?(?:stylesheet|icon|preconnect|preload))[^>]*\bhref=["']?(?:https?:)?//[^"'>\s]*"""
    r"""|url\(["']?(?:https?:)?//[^)"']*|@import\s+["'](?:https?:)?//[^"']*""",
    re.IGNORECASE,
)


def on_post_build(config: MkDocsConfig) -> None:
    root = Path(config.site_dir)
    found = [
        f"{path.relative_to(root)}: {match}"
        for path in sorted((*root.rglob("*.html"), *root.rglob("*.css")))
        for match in _LOADED.findall(path.read_text(encoding="utf-8"))
    ]
    if found:
        raise PluginError("these pages load something from elsewhere:\n" + "\n".join(found))
