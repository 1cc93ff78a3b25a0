"""A headless Chromium, driven through its DevTools protocol: open, ask, click, take pictures, hear every complaint.

Only what the gallery needs. The WebSocket client is aiohttp's, which MLflow and Ray bring along.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

#: Wall seconds until an answer must be there; generous, because machines are busy.
PATIENCE_S = 300.0


class BrowserError(Exception):
    """The page or the browser did not do what was asked."""


class Page:
    """One open tab.

    Attributes:
        complaints: console errors, uncaught exceptions and failed requests since the page was opened.
        requests: addresses the page asked for.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loaded = asyncio.Event()
        self.complaints: list[str] = []
        self.requests: list[str] = []

    async def listen(self) -> None:
        """Deliver answers and collect events until the socket closes."""
        async for message in self._socket:
            content = json.loads(message.data)
            if "id" in content:
                self._waiting.pop(content["id"]).set_result(content)
            else:
                self._event(content["method"], content.get("params", {}))

    def _event(self, method: str, what: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded.set()
        elif method == "Network.requestWillBeSent":
            self.requests.append(what["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            thrown = what["exceptionDetails"]
            self.complaints.append(thrown.get("exception", {}).get("description") or thrown["text"])
        elif method == "Runtime.consoleAPICalled" and what["type"] in ("error", "assert"):
            self.complaints.append(" ".join(str(a.get("value", a.get("description"))) for a in what["args"]))
        elif method == "Log.entryAdded" and what["entry"]["level"] == "error":
            self.complaints.append(f"{what['entry']['text']} {what['entry'].get('url', '')}")

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol and its result."""
        number = next(self._ids)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        await self._socket.send_json({"id": number, "method": method, "params": params})
        content = await asyncio.wait_for(answer, PATIENCE_S)
        if "error" in content:
            raise BrowserError(f"{method}: {content['error']['message']}")
        return content["result"]

    async def open(self, url: str, width: int = 1400, height: int = 1000) -> None:
        """Load ``url`` in a window of this size."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self.send("Emulation.setDeviceMetricsOverride", **size)
        self._loaded.clear()
        self.complaints.clear()
        self.requests.clear()
        await self.send("Page.navigate", url=url)
        await asyncio.wait_for(self._loaded.wait(), PATIENCE_S)

    async def ask(self, script: str) -> Any:
        """The value of a JavaScript expression; an exception in it is ours."""
        found = await self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True
        )
        if "exceptionDetails" in found:
            details = found["exceptionDetails"]
            raise BrowserError(
                f"{script}: {details.get('exception', {}).get('description', details['text'])}"
            )
        return found["result"].get("value")

    async def until(self, script: str, what: str) -> Any:
        """Wait until an expression is true; BrowserError names ``what`` did not happen."""
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while asyncio.get_running_loop().time() < deadline:
            value = await self.ask(script)
            if value:
                return value
            await asyncio.sleep(0.25)
        raise BrowserError(f"did not happen within {PATIENCE_S:.0f} s: {what}")

    async def click(self, x: float, y: float) -> None:
        """A real mouse click, as a user's."""
        await self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind in ("mousePressed", "mouseReleased"):
            await self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    async def picture(self, target: Path, *, whole: bool = False) -> None:
        """A PNG of what the window shows, or of the whole page."""
        options: dict[str, Any] = {"format": "png"}
        if whole:
            size = (await self.send("Page.getLayoutMetrics"))["cssContentSize"]
            options["captureBeyondViewport"] = True
            options["clip"] = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        found = await self.send("Page.captureScreenshot", **options)
        target.write_bytes(base64.b64decode(found["data"]))


@asynccontextmanager
async def chromium(program: str) -> AsyncIterator[Page]:
    """A page of a fresh headless browser, until the block ends."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            program, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}",
            "--remote-debugging-port=0", "about:blank",
        ]  # fmt: skip
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port = await _port(Path(profile) / "DevToolsActivePort", browser)
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                    tabs = await answer.json(content_type=None)
                url = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
                async with session.ws_connect(url, max_msg_size=0) as socket:
                    page = Page(socket)
                    listening = asyncio.create_task(page.listen())
                    for domain in ("Page", "Runtime", "Log", "Network"):
                        await page.send(f"{domain}.enable")
                    yield page
                listening.cancel()
        finally:
            browser.terminate()
            browser.wait(30)


async def _port(file: Path, browser: subprocess.Popen[bytes]) -> int:
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while asyncio.get_running_loop().time() < deadline and browser.poll() is None:
        if file.is_file() and file.read_text().strip():
            return int(file.read_text().splitlines()[0])
        await asyncio.sleep(0.2)
    raise BrowserError("the browser did not start")
