"""Pictures of a report page as people meet it: on a desk and on a phone, light and dark."""

from __future__ import annotations

from pathlib import Path

from browser import Page

#: Name -> width and height of the window.
WINDOWS = {"desk": (1280, 900), "phone": (390, 844)}


async def report_pictures(page: Page, report: Path, shots: Path) -> None:
    """``report_desk.png`` and so on: first screen and whole page of each window, light and dark.

    Of the whole page on a phone, which is very long, only the light one is kept.
    """
    for name, (width, height) in WINDOWS.items():
        for scheme in ("", "_dark"):
            await page.open((report / "report.html").resolve().as_uri(), width, height, dark=bool(scheme))
            await page.until("F.front.length > 0", "the front is drawn")
            await page.picture(shots / f"report_{name}{scheme}.png")
            if name == "desk" or not scheme:
                await page.picture(shots / f"report_{name}{scheme}_whole.png", whole=True)
