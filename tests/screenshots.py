"""Takes the pictures of the console in docs/screenshots/, of a made-up mesh whose time stands still.

    python tests/screenshots.py [FOLDER]

A picture carries a digest of what the page showed, and in which style: it is written anew only when that
is another. Keys, and so fingerprints, differ from run to run, and count for nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

TESTS: Final = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS / "integration"), str(TESTS.parent)]

from browser import Scheme, Tab, browsing, tab  # noqa: E402
from console_past import MemoryHistorian  # noqa: E402
from console_story import MOMENT_MS, StoryClock, Surveyed, tell  # noqa: E402
from http_support import HOST, served  # noqa: E402
from pictures import is_of, made_small  # noqa: E402
from playwright.async_api import Browser, Page  # noqa: E402

from pmoves_mesh.views.http.app import serving  # noqa: E402
from pmoves_mesh.views.http.console import pages  # noqa: E402

PICTURES: Final = TESTS.parent / "docs" / "screenshots"
WIDTH: Final = 1280
HEIGHT: Final = 800
# Fingerprints, and the ends of the slider, which are the true time's.
RANDOM: Final = re.compile(r"\b([0-9a-f]{16,64}|[0-9]{13}|step=\"[0-9]+)\b")

Step = Callable[[Page], Awaitable[Any]]


async def nothing(_: Page) -> None:
    """Leaves a view as it opens."""


async def read_on(page: Page) -> None:
    """Shows the lower part of an instance: who signed it, and its history."""
    panel = page.get_by_role("complementary", name="Instance")
    await panel.get_by_text("model is loading").nth(1).wait_for()
    await panel.evaluate("panel => panel.scrollTo(0, 395)")


async def look_back(page: Page) -> None:
    """Moves the slider to a moment at which something was wrong."""
    await page.get_by_label("Slider shows").select_option("the whole stream")
    await page.get_by_role("slider").evaluate(
        "(slider, at) => { slider.value = at; slider.dispatchEvent(new Event('input')); }", MOMENT_MS
    )
    await page.get_by_text("You look at the registry").wait_for()


async def compare(page: Page) -> None:
    """Compares two moments."""
    await page.get_by_role("tab", name="Difference").click()
    await page.get_by_label("From:").fill("30m")
    await page.get_by_role("button", name="Compare").click()
    await page.get_by_role("table", name="Differences").wait_for()


VIEWS: Final[dict[str, tuple[str, Scheme, Step]]] = {
    "mesh": ("mesh", "light", nothing),
    "mesh-dark": ("mesh", "dark", nothing),
    "services": ("services?open=ollama/gpu-box/ollama-1", "light", read_on),
    "timeline": ("timeline", "light", look_back),
    "difference": ("timeline", "light", compare),
    "trust": ("trust", "dark", nothing),
}


async def main(folder: Path = PICTURES) -> None:
    """Takes all pictures, and says of each what became of it."""
    folder.mkdir(exist_ok=True)
    clock = StoryClock()
    with tempfile.TemporaryDirectory() as directory:
        async with served(Path(directory), clock=clock) as mesh, browsing() as browser:
            await tell(mesh, clock)
            facade = replace(
                mesh.facade,
                surveyor=Surveyed(),
                historian=MemoryHistorian(mesh, clock),
                enrols=True,
                tokens_pending=lambda: 1,
                clock=clock,
            )
            async with serving(facade, HOST, 0) as port:
                for name, view in VIEWS.items():
                    path = folder / f"{name}.png"
                    told = await picture(browser, f"http://{HOST}:{port}", path, *view)
                    sys.stdout.write(f"{name} {told}\n")


async def picture(browser: Browser, url: str, path: Path, view: str, scheme: Scheme, step: Step) -> str:
    """Takes one picture, and returns what became of it."""
    opened: Tab = await tab(browser, url, scheme, timezone_id="UTC")
    page = opened.page
    await page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
    await page.clock.set_fixed_time(datetime.fromtimestamp(StoryClock.NOW_MS / 1000, UTC))
    await opened.go(view)
    await page.locator("#state", has_text="Live").wait_for()
    await step(page)
    await page.wait_for_load_state("load")
    await page.wait_for_timeout(1500)  # until what is read now and then has been read
    opened.is_clean()
    source = digest(await page.evaluate("document.body.outerHTML"))
    shown = await page.screenshot(animations="disabled", caret="hide")
    await page.context.close()
    if path.exists() and is_of(path.read_bytes(), source):
        return "is as it was"
    path.write_bytes(made_small(shown, source))
    return f"is taken, {path.stat().st_size // 1024} KiB"


def digest(shown: str) -> str:
    """Returns what stands for a page: its elements as they are, and what gives them their looks."""
    made = hashlib.sha256(RANDOM.sub("", shown).encode())
    for name, file in sorted(pages.load().items()):
        if not name.endswith((".js", ".html")):
            made.update(name.encode() + file.plain)
    return made.hexdigest()


if __name__ == "__main__":
    asyncio.run(main(*map(Path, sys.argv[1:])))
