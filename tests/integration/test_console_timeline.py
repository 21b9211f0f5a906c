"""The console's timeline in a real browser: the stream as it comes, and the registry as it was."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from agents import AgentProcess, Mesh, eventually
from browser import WAIT_MS, Tab, browsing, chromium, tab
from console_hosts import empty, two_hosts
from playwright.async_api import Locator, Page, expect

expect.set_options(timeout=WAIT_MS)

pytestmark = pytest.mark.skipif(chromium() is None, reason="Chromium is not installed")


class Story:
    """Two agents, of which one registered a service, changed it and took it back; the page of the other."""

    def __init__(self, alpha: AgentProcess, beta: AgentProcess, here: Tab) -> None:
        self.alpha, self.beta, self.here = alpha, beta, here
        self.begun = alpha.register("hi-rag", id="1", port=8086, metadata={"model": "old"}).position
        self.changed = alpha.register("hi-rag", id="1", port=8086, metadata={"model": "new"}).position
        self.stays = alpha.register("whisper", id="1", port=9000).position
        self.ended = alpha.delete("/api/services/hi-rag").position
        eventually(lambda: beta.get("/healthz").position >= self.ended, "the other agent knows all of it")

    @property
    def page(self) -> Page:
        return self.here.page

    def event(self, position: int) -> Locator:
        return self.page.get_by_role("button", name=str(position), exact=True)

    def row_then(self, service: str) -> Locator:
        table = self.page.get_by_role("table", name="Instances at that moment")
        return table.get_by_role("row").filter(has=self.page.get_by_role("button", name=service))


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with two_hosts(tmp_path_factory.mktemp("hosts")) as mesh:
        yield mesh


@pytest.fixture
async def story(hosts: Mesh) -> AsyncIterator[Story]:
    alpha, beta = hosts.agents.values()
    async with browsing() as browser:
        yield Story(alpha, beta, await tab(browser, beta.url))
    empty(hosts)


async def test_every_event_is_listed_as_it_comes_with_its_verified_signature(story: Story):
    await story.here.go("timeline")
    await expect(story.event(story.begun)).to_be_visible()
    await expect(story.page.get_by_role("status").filter(has_text="live")).to_be_visible()
    position = story.alpha.register("jellyfin", port=8096).position
    row = story.page.get_by_role("row").filter(has=story.event(position))
    for text in ("registered", "jellyfin", "verified"):
        await expect(row).to_contain_text(text)
    await story.event(position).click()
    panel = story.page.get_by_role("complementary", name="Event")
    certificates = story.beta.get("/api/trust").body["certificates"]
    fingerprint = next(one["fingerprint"] for one in certificates if one["name"] == "alpha")
    for text in (
        "service.registry.registered",
        "spiffe://pmoves-mesh/node/alpha",
        fingerprint,
        '"port": 8096',
    ):
        await expect(panel).to_contain_text(text)
    story.here.is_clean()


async def test_events_are_filtered(story: Story):
    await story.here.go("timeline")
    await expect(story.event(story.stays)).to_be_visible()
    await story.page.get_by_role("combobox", name="Service").fill("hi-rag")
    await expect(story.event(story.stays)).to_have_count(0)
    for position in (story.begun, story.changed, story.ended):
        await expect(story.event(position)).to_be_visible()
    await story.page.get_by_label("Type").select_option("deregistered")
    await expect(story.event(story.begun)).to_have_count(0)
    await expect(story.event(story.ended)).to_be_visible()
    story.here.is_clean()


async def test_the_slider_shows_the_registry_as_it_was(story: Story):
    await story.here.go("timeline")
    await expect(story.event(story.ended)).to_be_visible()
    await story.event(story.changed).click()
    await story.page.get_by_role("button", name="Show the registry at this event").click()
    banner = story.page.locator("#banners .past")
    await expect(banner).to_contain_text(f"position {story.changed}")
    await story.page.get_by_role("tab", name="Registry then").click()
    await expect(story.row_then("hi-rag")).to_be_visible()
    await expect(story.row_then("whisper")).to_have_count(0)
    slider = story.page.get_by_role("slider", name="Moment")
    await slider.focus()
    await story.page.keyboard.press("Home")
    await expect(story.row_then("hi-rag")).to_have_count(0)
    await story.page.keyboard.press("End")
    await expect(banner).to_have_count(0)
    await expect(story.row_then("whisper")).to_be_visible()
    story.here.is_clean()


async def test_the_other_views_show_the_past_too_until_one_goes_back_to_now(story: Story):
    await story.here.go(f"timeline?open={story.begun}")
    await story.page.get_by_role("button", name="Show the registry at this event").click()
    await expect(story.page.locator("#banners .past")).to_be_visible()
    await story.page.get_by_role("link", name="Services", exact=True).click()
    await story.page.get_by_role("button", name="hi-rag").click()
    panel = story.page.get_by_role("complementary", name="Instance")
    await expect(panel).to_contain_text("old")
    await expect(panel).to_contain_text("This is the past, which nobody changes.")
    await story.page.get_by_role("link", name="Mesh", exact=True).click()
    await expect(story.page.get_by_role("article", name="alpha")).to_contain_text("hi-rag")
    await story.page.get_by_role("button", name="Back to now").click()
    await expect(story.page.get_by_role("article", name="alpha")).to_contain_text("whisper")
    await expect(story.page.get_by_role("article", name="alpha")).not_to_contain_text("hi-rag")
    story.here.is_clean()


async def test_two_moments_are_compared(story: Story):
    await story.here.go("timeline")
    await story.page.get_by_role("tab", name="Difference").click()
    first, last = story.page.get_by_label("From:"), story.page.get_by_label("To", exact=True)
    differences = story.page.get_by_role("table", name="Differences")
    await first.fill(str(story.begun))
    await last.fill(str(story.changed))
    await last.press("Enter")
    changed = differences.get_by_role("row").filter(has_text="hi-rag (1)")
    await expect(changed).to_contain_text('metadata: {"model":"old"} → {"model":"new"}')
    await last.fill("now")
    await last.press("Enter")
    await expect(differences.get_by_role("row").filter(has_text="whisper (1)")).to_contain_text("added")
    await expect(changed).to_contain_text("removed")
    story.here.is_clean()


async def test_for_a_moment_before_the_stream_the_agents_own_line_is_shown(story: Story):
    await story.here.go("timeline")
    await story.page.get_by_role("tab", name="Difference").click()
    await story.page.get_by_label("From:").fill("999d")
    await story.page.get_by_role("button", name="Compare").click()
    detail = story.beta.get("/api/diff", **{"from": "999d"}).body["detail"]
    alert = story.page.get_by_role("tabpanel").get_by_role("alert")
    await expect(alert).to_contain_text(detail[:20])


async def test_the_keyboard_reaches_all_of_the_timeline(story: Story):
    page = story.page
    await story.here.go("timeline")
    await expect(story.event(story.ended)).to_be_visible()
    await page.get_by_role("heading", name="Timeline").focus()
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("button", name="One event back")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator("#banners .past")).to_contain_text("as it was")
    for control in (
        page.get_by_role("button", name="One event on"),
        page.get_by_role("button", name="Now", exact=True),
        page.get_by_role("combobox", name="Slider shows"),
        page.get_by_role("slider", name="Moment"),
        page.get_by_role("tab", name="Events"),
    ):
        await page.keyboard.press("Tab")
        await expect(control).to_be_focused()
    await page.keyboard.press("ArrowRight")
    await expect(page.get_by_role("tab", name="Registry then")).to_be_focused()
    await expect(story.row_then("whisper")).to_be_visible()
    await page.keyboard.press("ArrowLeft")
    for name in ("Subject", "Type", "Node", "Service"):
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("combobox", name=name, exact=True)).to_be_focused()
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("tabpanel").get_by_label("Id", exact=True)).to_be_focused()
    await page.keyboard.press("Tab")
    await page.keyboard.press("Tab")
    await expect(page.locator("button.open:focus")).to_have_count(1)
    await page.keyboard.press("Enter")
    await expect(
        page.get_by_role("complementary", name="Event").get_by_role("heading", level=2)
    ).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(page.locator("button.open:focus")).to_have_count(1)
