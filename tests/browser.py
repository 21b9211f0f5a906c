"""A real browser for tests: the installed Chromium, without a window, and all that it asked and said."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Page, async_playwright

Scheme = Literal["light", "dark"]

WIDTH, HEIGHT = 1440, 900
WAIT_MS = 15_000

# Chromium's sandbox wants a user of its own, and root has none. What it asks for by itself is not the page's.
_ROOT = ["--no-sandbox"] if os.geteuid() == 0 else []
_QUIET = ["--disable-background-networking", "--disable-component-update", "--no-first-run"]


def chromium() -> str | None:
    """Returns where Chromium is installed; None if it is not."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@dataclass
class Tab:
    """A page, and what came of it.

    Attributes:
        asked: the address of each request.
        said: what it wrote to the console that is no mere information.
        failed: the errors that nothing in it caught.
    """

    page: Page
    url: str
    asked: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    async def go(self, view: str = "mesh") -> None:
        """Opens a view, as whoever types its address does."""
        await self.page.goto(f"{self.url}/#/{view}")

    @property
    def hosts(self) -> set[str]:
        """Returns which hosts it asked."""
        return {urlsplit(url).netloc for url in self.asked if not url.startswith(("data:", "blob:"))}

    def is_clean(self) -> None:
        """Checks that nothing went wrong in it, and that it asked nobody but its own agent."""
        assert not self.failed
        assert not self.said
        assert self.hosts == {urlsplit(self.url).netloc}


@asynccontextmanager
async def browsing() -> AsyncIterator[Browser]:
    """A browser; the test is skipped if there is none."""
    program = chromium()
    if program is None:
        pytest.skip("Chromium is not installed")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=[*_ROOT, *_QUIET])
        try:
            yield browser
        finally:
            await browser.close()


async def tab(browser: Browser, url: str, scheme: Scheme = "light", **options: Any) -> Tab:
    """Returns a new tab that knows nothing of any other."""
    context = await browser.new_context(
        viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=scheme, locale="en-GB", **options
    )
    context.set_default_timeout(WAIT_MS)
    opened = Tab(await context.new_page(), url)
    page = opened.page
    page.on("request", lambda request: opened.asked.append(request.url))
    page.on("pageerror", lambda error: opened.failed.append(f"{error}\n{error.stack}"))
    page.on(
        "console",
        lambda message: opened.said.append(message.text) if message.type in {"error", "warning"} else None,
    )
    return opened
