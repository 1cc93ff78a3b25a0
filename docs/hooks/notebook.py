"""A hook of the site: the notebook becomes a page with its outputs; figures are drawn by a plotly that the site holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from plotly.offline import get_plotlyjs

NOTEBOOK = "examples/quickstart.ipynb"
PLOTLY = "application/vnd.plotly.v1+json"
SCRIPT = "pictures/plotly.min.js"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    path = Path(config.docs_dir) / NOTEBOOK
    notebook = json.loads(path.read_text(encoding="utf-8"))
    files.append(File.generated(config, "notebook.md", content=page(notebook)))
    files.append(File.generated(config, SCRIPT, content=get_plotlyjs()))
    return files


def page(notebook: dict[str, Any]) -> str:
    """The notebook as Markdown: text, code, and what the code gave."""
    parts = [f'<script src="{SCRIPT}"></script>']
    for number, cell in enumerate(notebook["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        parts += [_output(f"figure-{number}-{i}", one) for i, one in enumerate(cell.get("outputs", []))]
    return "\n\n".join(part for part in parts if part)


def _output(name: str, output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if PLOTLY in data:
        figure = json.dumps({"data": data[PLOTLY]["data"], "layout": data[PLOTLY]["layout"]}).replace(
            "</", "<\\/"
        )
        draw = f'Plotly.newPlot("{name}", f.data, f.layout, {{responsive: true, displayModeBar: false}});'
        script = f'(f => addEventListener("load", () => {{ {draw} }}))({figure})'
        return f'<div id="{name}" class="plotly-figure"></div>\n<script>{script}</script>'
    text = "".join(output.get("text") or data.get("text/plain") or "")
    return f"``` {{ .text .output }}\n{text.rstrip()}\n```" if text.strip() else ""
