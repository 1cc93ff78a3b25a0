"""Pictures of a sweep while it runs: the report that follows it, and ``gcp-sweep status --watch`` in a terminal.

    python docs/gallery/live.py configs/demo.yaml --out docs/gallery/live [--models 12] [--chromium chromium]

The sweep runs in a temporary folder and is stopped when the pictures are taken. Needs tmux (Debian: apt-get install
tmux).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from browser import PATIENCE_S, BrowserError, Page, chromium

PROGRAMS = Path(sys.executable).parent
#: Columns and rows of the terminal.
SIZE = (132, 38)
_SOCKET = "gallery"


@contextlib.contextmanager
def running(*words: str, where: Path) -> Iterator[subprocess.Popen[str]]:
    """One of our programs in the folder ``where``, until the block ends."""
    process = subprocess.Popen(
        [PROGRAMS / words[0], *words[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=where,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)


def until(ready: Callable[[], bool], what: str) -> None:
    """Wait for something outside the browser."""
    deadline = time.monotonic() + PATIENCE_S
    while not ready():
        if time.monotonic() > deadline:
            raise BrowserError(f"did not happen within {PATIENCE_S:.0f} s: {what}")
        time.sleep(0.5)


@contextlib.contextmanager
def terminal(command: str, where: Path) -> Iterator[Callable[[], str]]:
    """A terminal in the folder ``where`` that runs ``command``; a function that says what stands on it, with colours."""
    tmux = ["tmux", "-L", _SOCKET]
    size = ["-x", str(SIZE[0]), "-y", str(SIZE[1])]
    subprocess.run([*tmux, "new-session", "-d", "-c", str(where), *size, command], check=True)

    def screen() -> str:
        return subprocess.run([*tmux, "capture-pane", "-p", "-e"], capture_output=True, text=True).stdout

    try:
        yield screen
    finally:
        subprocess.run([*tmux, "kill-server"], check=False)


async def terminal_picture(page: Page, text: str, title: str, target: Path) -> None:
    """A picture of what a terminal shows."""
    from rich.console import Console
    from rich.text import Text

    console = Console(record=True, width=SIZE[0], file=(target.parent / ".terminal").open("w"))
    console.print(Text.from_ansi(text.rstrip()), soft_wrap=True)
    svg = target.with_suffix(".svg")
    console.save_svg(str(svg), title=title, font_aspect_ratio=0.61)
    (target.parent / ".terminal").unlink()
    await page.open(svg.resolve().as_uri())
    width, height = await page.ask("(b => [b.width, b.height])(document.documentElement.viewBox.baseVal)")
    await page.open(svg.resolve().as_uri(), 1280, round(1280 * height / width))
    await page.picture(target)
    svg.unlink()


async def look(where: Path, name: str, out: Path, program: str, models: int) -> None:
    """Wait until the running sweep has so many finished models; take the pictures.

    Args:
        where: the folder in which somebody works; the sweep is in ``runs`` there.
    """
    command = f"{PROGRAMS / 'gcp-sweep'} status runs/{name} --watch"
    words = ["gcp-analyze", "report", f"runs/{name}", "--serve", "--port", "0"]
    with terminal(command, where) as screen, running(*words, where=where) as served:
        assert served.stdout is not None
        url = served.stdout.readline().split()[1]
        async with chromium(program) as page:
            await page.open(url, 1280, 900)
            said = "document.getElementById('live-said').textContent"
            await page.until(
                f"(t => {{ const f = /(\\d+) finished/.exec(t); return f && +f[1] >= {models}; }})({said})",
                f"{models} models are finished",
            )
            await page.open(url, 1280, 900)
            await page.until("typeof F !== 'undefined' && F.front.length > 0", "the front is drawn")
            await page.picture(out / "report_serve.png")
            until(lambda: "Front so far" in screen(), "the terminal shows the front")
            title = f"gcp-sweep status runs/{name} --watch"
            await terminal_picture(page, screen(), title, out / "watch.png")


def main() -> int:
    """Run the sweep and take the pictures; 1 if something that should be seen is not there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", type=int, default=12)
    parser.add_argument("--chromium", default="chromium")
    options = parser.parse_args()
    missing = [name for name in ("tmux", options.chromium) if shutil.which(name) is None]
    if missing:
        print(f"not here: {', '.join(missing)}", file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        where = Path(temporary)
        try:
            with running("gcp-sweep", "run", str(options.config.resolve()), where=where) as driver:
                entries = functools.partial(where.glob, "runs/*/sweep.json")
                until(lambda: any(entries()) or driver.poll() is not None, "the sweep begins")
                (entry,) = entries()
                asyncio.run(look(where, entry.parent.name, options.out, options.chromium, options.models))
        except BrowserError as error:
            print(f"gallery: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
