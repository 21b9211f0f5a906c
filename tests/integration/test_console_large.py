"""The console before 500 nodes and 10,000 instances: what exists of it, and what a keystroke costs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from time import perf_counter

import pytest
from agents import note
from browser import WAIT_MS, Tab, browsing, chromium, tab
from builders import announced, instance, registered
from http_support import HOST, Served, served
from playwright.async_api import expect

from pmoves_mesh.core.event import Event

NODES, EACH = 500, 20
ALL = NODES * EACH
ROWS_MAX = 60
CARDS_MAX = 60
EXPECTED = ["healthy", "healthy", "healthy", "unhealthy", "unknown"]

pytestmark = [
    pytest.mark.skipif(chromium() is None, reason="Chromium is not installed"),
    pytest.mark.timeout(240),
]

TYPED = """async (text) => {
  const field = document.querySelector('input[type="search"]');
  const begin = performance.now();
  field.value = text;
  field.dispatchEvent(new Event("input"));
  document.querySelector("tbody").getBoundingClientRect();  // it is laid out by then
  return performance.now() - begin;
}"""


def story() -> Iterator[Event]:
    """Yields what fills the mesh: every node, and its instances."""
    for number in range(NODES):
        node = f"node-{number:03}"
        host = f"10.1.{number // 250}.{number % 250 + 1}"
        yield announced(1, node=node, host=host, port=8100, resources={"cpu_cores": 8, "memory_gb": 32})
        for place in range(EACH):
            record = instance(
                f"svc-{(number * EACH + place) % 97:02}",
                node,
                f"i{place}",
                host=host,
                port=9000 + place,
                capabilities=("gpu", f"cap-{place}"),
                health_status=EXPECTED[place % len(EXPECTED)],
            )
            yield registered(2 + place, record)


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as mesh:
        position = 0
        for event in story():
            position = mesh.publish(event)
        await mesh.replica.wait_position(position, 120)
        yield mesh


@pytest.fixture
async def here(mesh: Served) -> AsyncIterator[Tab]:
    async with browsing() as browser:
        yield await tab(browser, f"http://{HOST}:{mesh.port}")


async def rows(here: Tab) -> int:
    return await here.page.locator("tr[data-row]").count()


async def test_of_ten_thousand_instances_only_those_exist_that_are_seen(here: Tab):
    await here.go("services")
    counted = here.page.get_by_role("status").filter(has_text="10,000 instances")
    await expect(counted).to_be_visible(timeout=4 * WAIT_MS)
    assert 15 < await rows(here) <= ROWS_MAX
    assert await here.page.locator("table").get_attribute("aria-rowcount") == str(ALL + 1)
    full = await here.page.locator("*").count()
    await here.page.get_by_role("region", name="Instances, scrolls").focus()
    await here.page.keyboard.press("End")
    await expect(here.page.locator(f'tr[aria-rowindex="{ALL + 1}"]')).to_be_visible()
    assert await rows(here) <= ROWS_MAX
    await here.page.get_by_label("Name, id or address").fill("10.1.0.7:")
    await expect(here.page.get_by_role("status").filter(has_text="20 of 10,000 instances")).to_be_visible()
    few = await here.page.locator("*").count()
    note(f"elements in the page: {full} before {ALL} instances, {few} before {EACH}")
    assert full < 2 * few
    here.is_clean()


async def test_a_keystroke_costs_a_fraction_of_what_opening_the_page_does(here: Tab):
    begin = perf_counter()
    await here.go("services")
    await here.page.locator("tr[data-row]").first.wait_for(timeout=4 * WAIT_MS)
    opened_ms = (perf_counter() - begin) * 1000
    typed_ms = [await here.page.evaluate(TYPED, "svc-42"[:length]) for length in range(1, 7)]
    note(f"first rows of {ALL} after {opened_ms:.0f} ms; keystrokes take {max(typed_ms):.1f} ms at most")
    assert max(typed_ms) < opened_ms / 4


async def test_a_change_builds_one_row_anew_and_no_other(mesh: Served, here: Tab):
    await here.go("services?node=node-003")
    await expect(here.page.locator("tr[data-row]")).to_have_count(EACH, timeout=4 * WAIT_MS)
    await here.page.evaluate('document.querySelectorAll("tr[data-row]").forEach((row) => (row.old = true))')
    name = f"svc-{(3 * EACH) % 97:02}"
    changed = instance(name, "node-003", "i0", host="10.9.9.9", health_status="unhealthy")
    await mesh.tell(registered(100, changed))
    await expect(here.page.get_by_role("row").filter(has_text="10.9.9.9")).to_be_visible()
    fresh = '[...document.querySelectorAll("tr[data-row]")].filter((row) => !row.old).length'
    assert await here.page.evaluate(fresh) == 1


async def test_of_five_hundred_nodes_only_those_cards_exist_that_are_seen(here: Tab):
    await here.go("mesh")
    await expect(here.page.get_by_text("500 of 500")).to_be_visible(timeout=4 * WAIT_MS)
    await expect(here.page.get_by_role("article", name="node-000")).to_contain_text("svc-")
    assert 4 < await here.page.get_by_role("article").count() <= CARDS_MAX
    asked = {url for url in here.asked if url.endswith("/load")}
    assert len(asked) <= CARDS_MAX
    scroller = here.page.get_by_role("region", name="Nodes, scrolls")
    await scroller.evaluate("scroller => scroller.scrollTo(0, scroller.scrollHeight)")
    await expect(here.page.get_by_role("article", name="node-499")).to_be_visible()
    assert await here.page.get_by_role("article").count() <= CARDS_MAX
    here.is_clean()
