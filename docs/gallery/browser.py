"""A headless Chromium, driven by Playwright: open, ask, click, take pictures, hear every complaint.

Only what the gallery needs; the browser is the system's, nothing is downloaded.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.async_api import Page as Tab

#: Wall seconds until an answer must be there; generous, because machines are busy.
PATIENCE_S = 300.0
#: Of each sort, in a picture that is kept.
_COLOURS = 64


class BrowserError(Exception):
    """The page or the browser did not do what was asked."""


class Page:
    """One open tab.

    Attributes:
        complaints: console errors, uncaught exceptions and failed requests since the page was opened.
        requests: addresses the page asked for.
    """

    def __init__(self, tab: Tab) -> None:
        self._tab = tab
        self.complaints: list[str] = []
        self.requests: list[str] = []
        tab.set_default_timeout(1000 * PATIENCE_S)
        tab.on("console", self._console)
        tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        tab.on("request", lambda request: self.requests.append(request.url))
        tab.on("requestfailed", lambda request: self.complaints.append(f"{request.failure} {request.url}"))

    def _console(self, message: Any) -> None:
        if message.type in ("error", "assert"):
            self.complaints.append(f"{message.text} {message.location.get('url', '')}")

    async def open(self, url: str, width: int = 1400, height: int = 1000, *, dark: bool = False) -> None:
        """Load ``url`` in a window of this size, for somebody who likes pages light or dark."""
        await self._tab.emulate_media(color_scheme="dark" if dark else "light")
        await self._tab.set_viewport_size({"width": width, "height": height})
        self.complaints.clear()
        self.requests.clear()
        await self._tab.goto(url)

    async def ask(self, script: str) -> Any:
        """The value of a JavaScript expression; an exception in it is ours."""
        from playwright.async_api import Error

        try:
            return await self._tab.evaluate(script)
        except Error as error:
            raise BrowserError(f"{script}: {error}") from error

    async def until(self, script: str, what: str) -> Any:
        """Wait until an expression is true; BrowserError names ``what`` did not happen."""
        from playwright.async_api import Error

        try:
            found = await self._tab.wait_for_function(script, polling=250)
            return await found.json_value()
        except Error as error:
            raise BrowserError(f"did not happen within {PATIENCE_S:.0f} s: {what}") from error

    async def click(self, x: float, y: float) -> None:
        """A real mouse click, as a user's."""
        await self._tab.mouse.click(x, y)

    async def picture(self, target: Path, *, whole: bool = False) -> None:
        """A small PNG of what the window shows, or of the whole page."""
        await self._tab.screenshot(path=target, full_page=whole)
        shrink(target)


def shrink(picture: Path) -> None:
    """A third of the bytes: the most frequent colours stay as they are, some more cover the range of all others."""
    from PIL import Image

    with Image.open(picture) as found:
        whole = found.convert("RGB")
    frequent = sorted(whole.getcolors(1 << 24), reverse=True)[:_COLOURS]
    others = whole.quantize(_COLOURS, Image.Quantize.MAXCOVERAGE).getpalette()
    palette = Image.new("P", (1, 1))
    palette.putpalette([*(part for _, colour in frequent for part in colour), *others[: 3 * _COLOURS]])
    whole.quantize(palette=palette, dither=Image.Dither.NONE).save(picture, optimize=True)


@asynccontextmanager
async def chromium(program: str) -> AsyncIterator[Page]:
    """A page of a fresh headless browser, until the block ends."""
    from playwright.async_api import async_playwright

    async with async_playwright() as play:
        browser = await play.chromium.launch(executable_path=shutil.which(program), args=["--no-sandbox"])
        try:
            yield Page(await browser.new_page())
        finally:
            await browser.close()
