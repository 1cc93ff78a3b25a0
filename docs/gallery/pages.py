"""Pictures of the documentation: its first page, and the notebook with what it printed and drew.

make docs && python docs/gallery/pages.py site --out docs/gallery/pages [--chromium chromium]
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from browser import chromium

#: Page -> its picture and, for a long one, the words to scroll to.
PAGES = {
    "index.html": ("start", ""),
    "notebook.html": ("notebook", "Which model"),
    "paths.html": ("paths", ""),
}


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Requests are no news."""


async def look(url: str, out: Path, program: str) -> None:
    """Take the pictures."""
    async with chromium(program) as page:
        for name, (picture, words) in PAGES.items():
            await page.open(f"{url}/{name}", 1280, 900)
            await page.until("document.readyState === 'complete'", f"{name} is loaded")
            await page.picture(out / f"{picture}.png", whole=bool(words))


def main() -> int:
    """Serve the site on loopback and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--chromium", default="chromium")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    handler = functools.partial(_Quiet, directory=str(options.site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        asyncio.run(look(f"http://127.0.0.1:{server.server_port}", options.out, options.chromium))
        server.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
