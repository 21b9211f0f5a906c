"""The console in a real browser, before two real agents."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import nats
import pytest
from agents import AgentProcess, Mesh, eventually, mesh_in, note
from browser import WAIT_MS, Scheme, Tab, browsing, chromium, tab
from console_hosts import empty, two_hosts
from http_support import own_address
from playwright.async_api import Browser, Locator, expect
from ports import free_port

NOBODY = "2001:db8::9"
TOKEN = "letter-of-credence"
VIEWS = ("mesh", "services", "timeline", "trust")
WITHIN_S = 1.0
NAMED = {"button", "link", "textbox", "searchbox", "combobox", "slider", "tab", "meter", "img", "dialog"}
expect.set_options(timeout=WAIT_MS)

pytestmark = pytest.mark.skipif(chromium() is None, reason="Chromium is not installed")


@dataclass
class Watched:
    """Two agents, and the page of the second."""

    mesh: Mesh
    alpha: AgentProcess
    beta: AgentProcess
    browser: Browser
    tab: Tab

    def row(self, service: str) -> Locator:
        return self.tab.page.get_by_role("row").filter(has=self.tab.page.get_by_role("button", name=service))

    async def shows(self, service: str) -> None:
        await expect(self.row(service)).to_be_visible()


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with browsing() as browser:
        yield browser


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Two agents, for all tests that leave them as they were."""
    with two_hosts(tmp_path_factory.mktemp("hosts")) as mesh:
        yield mesh


@pytest.fixture
async def watched(hosts: Mesh, browser: Browser) -> AsyncIterator[Watched]:
    yield await watching(hosts, browser)
    empty(hosts)


@pytest.fixture
async def doomed(tmp_path: Path, browser: Browser) -> AsyncIterator[Watched]:
    """Two agents, for a test that ends one of them."""
    with two_hosts(tmp_path) as mesh:
        yield await watching(mesh, browser)


async def watching(mesh: Mesh, browser: Browser) -> Watched:
    alpha, beta = mesh.agents.values()
    return Watched(mesh, alpha, beta, browser, await tab(browser, beta.url))


@contextmanager
def service() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A service that is well for as long as it runs, and the port that it is asked on."""
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process, port
    finally:
        process.kill()
        process.wait()


def by_curl(agent: AgentProcess, body: str, path: str = "/api/services", *options: str) -> None:
    command = ["curl", "-sf", *options, f"{agent.url}{path}", *(["-d", body] if body else [])]
    subprocess.run(command, check=True, timeout=20, stdout=subprocess.DEVNULL)


async def test_an_instance_appears_without_reload_turns_red_when_it_dies_and_disappears(watched: Watched):
    here = watched.tab
    await here.go("services")
    await expect(here.page.get_by_role("status").filter(has_text="0 instances")).to_be_visible()
    await here.page.evaluate("window.kept = true")
    with service() as (process, port):
        asked = {"type": "http", "url": f"http://127.0.0.1:{port}/", "interval_s": 1, "fall": 1, "rise": 1}
        by_curl(watched.alpha, json.dumps({"name": "hi-rag", "port": port, "check": asked}))
        await watched.shows("hi-rag")
        await expect(watched.row("hi-rag")).to_contain_text("healthy")
        await expect(watched.row("hi-rag")).not_to_have_class("bad")
        process.kill()
        await expect(watched.row("hi-rag")).to_have_class("bad")
        await expect(watched.row("hi-rag")).to_contain_text("unhealthy")
    by_curl(watched.alpha, "", "/api/services/hi-rag", "-X", "DELETE")
    await expect(watched.row("hi-rag")).to_have_count(0)
    assert await here.page.evaluate("window.kept")
    here.is_clean()


async def test_a_change_is_seen_within_a_second(watched: Watched):
    await watched.tab.go("services")
    await expect(watched.tab.page.get_by_role("heading", name="Services")).to_be_visible()
    taken = []
    for number in range(3):
        watched.alpha.register(f"whisper-{number}", port=9000)
        begin = time.perf_counter()
        await watched.shows(f"whisper-{number}")
        taken.append(time.perf_counter() - begin)
    note(f"a registration is seen on another host's page after {min(taken):.3f} s")
    assert min(taken) < WITHIN_S


async def test_a_node_is_a_card_with_what_it_has_and_its_services(watched: Watched):
    watched.alpha.register("ollama", port=11434, capabilities=["llm"])
    await watched.tab.go()
    card = watched.tab.page.get_by_role("article", name="alpha")
    for text in ("alive", "docked", "held", "core", "CPU", "Memory", "ollama", "signed by itself"):
        await expect(card).to_contain_text(text)
    await expect(card.get_by_role("meter", name="CPU")).to_be_visible()
    await expect(watched.tab.page.get_by_role("img", name="2 nodes.")).to_be_visible()
    watched.tab.is_clean()


async def test_a_node_that_is_lost_is_shown_as_lost_and_so_are_its_instances(doomed: Watched):
    doomed.alpha.register("ollama", port=11434)
    await doomed.tab.go()
    card = doomed.tab.page.get_by_role("article", name="alpha")
    await expect(card).to_contain_text("alive")
    doomed.alpha.kill()
    await expect(card).to_contain_text("lost", timeout=2 * WAIT_MS)
    await expect(card.get_by_role("link", name="ollama")).to_contain_text("node lost")


async def test_a_way_that_is_not_open_is_drawn_and_said(tmp_path: Path, browser: Browser):
    with mesh_in(tmp_path) as mesh:
        beta = mesh.started("beta", ANNOUNCE_SEC="1")
        mesh.started("alpha", ANNOUNCE_SEC="1", PMOVES_ADVERTISE_HOST=NOBODY)
        here = await tab(browser, beta.url)
        await here.go()
        told = here.page.get_by_role("listitem").filter(has_text="beta does not reach alpha:")
        await expect(told).to_be_visible(timeout=2 * WAIT_MS)
        await expect(here.page.locator(".ways path.bad")).not_to_have_count(0)
        await expect(here.page.get_by_role("article", name="beta")).to_contain_text("not alpha")


async def test_markup_in_metadata_stays_text(watched: Watched):
    hostile = '<img src=x onerror="window.hit = 1"><script>window.hit = 1</script>'
    await watched.tab.go("services")
    watched.alpha.register("hi-rag", port=1, metadata={"note": hostile, hostile: {"deep": hostile}})
    await watched.row("hi-rag").get_by_role("button").click()
    panel = watched.tab.page.get_by_role("complementary", name="Instance")
    await expect(panel.get_by_text(hostile, exact=True).first).to_be_visible()
    assert await watched.tab.page.locator("main img, main script").count() == 0
    assert await watched.tab.page.evaluate("window.hit ?? null") is None
    watched.tab.is_clean()


async def test_an_instance_is_filtered_and_shown_in_full(watched: Watched):
    watched.alpha.register("hi-rag", port=8086, capabilities=["rag"], metadata={"model": "bge-m3"})
    watched.beta.register("whisper", port=9000, capabilities=["stt"], mode="standalone")
    page = watched.tab.page
    await watched.tab.go("services")
    await watched.shows("whisper")
    for label, value, left in (
        ("Capability", "rag", "hi-rag"),
        ("Node", "beta", "whisper"),
        ("Mode", "standalone", "whisper"),
    ):
        await page.get_by_role("combobox", name=label, exact=True).select_option(value)
        await expect(page.get_by_role("status").filter(has_text="1 of 2 instances")).to_be_visible()
        await watched.shows(left)
        await page.get_by_role("button", name="Clear").click()
    await page.get_by_label("Name, id or address").fill("8086")
    await expect(watched.row("whisper")).to_have_count(0)
    await watched.row("hi-rag").get_by_role("button").click()
    panel = page.get_by_role("complementary", name="Instance")
    fingerprint = watched.beta.get("/api/trust").body["certificates"][0]["fingerprint"]
    for text in ("bge-m3", "spiffe://pmoves-mesh/node/alpha", "verified", fingerprint):
        await expect(panel).to_contain_text(text)
    watched.tab.is_clean()


async def test_maintenance_and_deregistration_are_confirmed_and_done(watched: Watched):
    watched.beta.register("jellyfin", id="1", port=8096)
    page = watched.tab.page
    await watched.tab.go("services?open=jellyfin/beta/1")
    await page.get_by_role("button", name="Maintenance…").click()
    await page.get_by_label("Reason").fill("disks are exchanged")
    await page.get_by_role("button", name="Begin maintenance").click()
    await expect(watched.row("jellyfin")).to_contain_text("maintenance")
    eventually(
        lambda: (
            watched.alpha.get("/api/services").body["services"][0]["maintenance_reason"]
            == "disks are exchanged"
        ),
        "the other agent knows why",
    )
    await page.get_by_role("button", name="Deregister…").click()
    await page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    assert watched.beta.names() == ["jellyfin"]
    await page.get_by_role("button", name="Deregister…").click()
    await page.get_by_role("dialog").get_by_role("button", name="Deregister", exact=True).click()
    await expect(watched.row("jellyfin")).to_have_count(0)
    assert watched.beta.names() == []
    watched.tab.is_clean()


async def test_an_instance_of_another_node_is_left_to_that_node(watched: Watched):
    watched.alpha.register("hi-rag", port=8086)
    await watched.tab.go("services")
    await watched.row("hi-rag").get_by_role("button").click()
    panel = watched.tab.page.get_by_role("complementary", name="Instance")
    await expect(panel).to_contain_text("Only node alpha changes this instance")
    await expect(panel.get_by_role("button", name="Deregister…")).to_have_count(0)


async def test_from_another_host_a_wrong_token_is_refused_with_the_agents_own_line(
    tmp_path: Path, browser: Browser
):
    with mesh_in(tmp_path) as mesh:
        agent = mesh.started("alpha", SERVICE_REGISTRY_HOST="0.0.0.0", SERVICE_REGISTRY_TOKEN=TOKEN)
        agent.register("minio", id="1", port=9001)
        url = f"https://{own_address()}:{agent.url.rpartition(':')[2]}"
        here = await tab(browser, url, ignore_https_errors=True)
        await here.go("services?open=minio/alpha/1")
        await here.page.get_by_role("button", name="Deregister…").click()
        dialog = here.page.get_by_role("dialog")
        sure = dialog.get_by_role("button", name="Deregister", exact=True)
        await sure.click()
        line = "a write from another host needs a client certificate of the mesh, or its token"
        await expect(dialog.get_by_role("alert")).to_have_text(line)
        field = dialog.get_by_label("Token")
        await expect(field).to_be_focused()
        await field.fill("not the token")
        await sure.click()
        await expect(dialog.get_by_role("alert")).to_have_text(line)
        assert agent.names() == ["minio"]
        await field.fill(TOKEN)
        await sure.click()
        await expect(dialog).to_have_count(0)
        assert agent.names() == []
        stored = "[localStorage.length, sessionStorage.length, document.cookie]"
        assert await here.page.evaluate(stored) == [0, 0, ""]
        assert here.hosts == {url.partition("//")[2]}


async def test_the_trust_view_shows_who_speaks_what_was_refused_and_who_may_still_join(doomed: Watched):
    page, beta = doomed.tab.page, doomed.beta
    await doomed.tab.go("trust")
    certificates = page.get_by_role("table", name="Certificates", exact=True)
    await expect(certificates.get_by_role("row").filter(has_text="node beta")).to_contain_text("d")
    await expect(page.get_by_text("No event was refused since this agent started.")).to_be_visible()
    client = await nats.connect(doomed.mesh.server.url)
    await client.publish("service.registry.registered", b'{"service": "forged", "data": {}}')
    await client.close()
    (fingerprint,) = [
        one["fingerprint"] for one in beta.get("/api/trust").body["certificates"] if one["name"] == "alpha"
    ]
    for command in (["token", "create", "--local"], ["certs", "revoke", "alpha", "--reason", "stolen"]):
        done = beta.run(*command)
        assert done.returncode == 0, done.stderr
    refused = page.get_by_role("table", name="Rejected events by reason")
    await expect(refused.get_by_role("row").filter(has_text="unsigned")).to_contain_text("1")
    revoked = page.get_by_role("table", name="Revocations")
    await expect(revoked.get_by_role("row").filter(has_text=fingerprint)).to_contain_text("node alpha")
    await expect(page.get_by_text("1 token could still be used to join.")).to_be_visible()
    doomed.tab.is_clean()


async def test_a_replica_that_is_cut_off_says_so_and_then_takes_it_back(doomed: Watched):
    doomed.alpha.register("hi-rag", port=8086)
    await doomed.tab.go("services")
    await doomed.shows("hi-rag")
    stale = doomed.tab.page.locator("#banners").get_by_text("This replica is stale.")
    await expect(stale).to_have_count(0)
    doomed.mesh.server.kill()
    await expect(stale).to_contain_text("NATS cannot be reached, so what you see may be out of date.")
    await doomed.shows("hi-rag")
    doomed.mesh.server.start()
    await expect(stale).to_have_count(0, timeout=2 * WAIT_MS)
    doomed.beta.kill()
    await expect(doomed.tab.page.get_by_text("This agent does not answer.")).to_be_visible()


async def test_a_timeline_that_cannot_be_read_says_why_and_comes_once_it_can(doomed: Watched):
    doomed.alpha.register("hi-rag", port=8086)
    doomed.mesh.server.kill()
    await doomed.tab.go("timeline")
    events = doomed.tab.page.get_by_role("tabpanel", name="Events")
    await expect(events.get_by_role("alert")).not_to_be_empty()
    doomed.mesh.server.start()
    await expect(events.get_by_role("row").filter(has_text="hi-rag")).to_be_visible(timeout=2 * WAIT_MS)
    await expect(events.get_by_role("alert")).to_have_count(0)


async def test_what_is_told_to_a_screen_reader_is_what_has_changed(watched: Watched):
    said = watched.tab.page.locator("#said")
    await watched.tab.go("services")
    await expect(watched.tab.page.locator("#state")).to_contain_text("Live")
    watched.alpha.register("hi-rag", id="1", port=8086)
    await expect(said).to_have_text("hi-rag on alpha is unknown.")
    watched.alpha.delete("/api/services/hi-rag")
    await expect(said).to_have_text("hi-rag on alpha has gone.")
    assert await said.get_attribute("aria-live") == "polite"


async def test_a_control_keeps_the_focus_while_what_is_around_it_changes(watched: Watched):
    watched.beta.register("hi-rag", id="1", port=8086)
    await watched.tab.go()
    button = watched.tab.page.get_by_role("article", name="beta").get_by_role("button", name="Maintenance…")
    await button.focus()
    await button.evaluate("button => (button.old = true)")
    watched.beta.register("whisper", port=9000)
    await expect(watched.tab.page.get_by_role("article", name="beta")).to_contain_text("2 instances")
    await expect(button).to_be_focused()
    assert not await button.evaluate("button => Boolean(button.old)")


async def test_the_keyboard_reaches_everything(watched: Watched):
    for number in range(3):
        watched.alpha.register(f"svc-{number}", port=9000 + number)
    page = watched.tab.page
    await watched.tab.go("mesh")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await page.keyboard.press("Tab")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Services", exact=True)).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Services")).to_be_focused()
    await watched.shows("svc-2")
    await page.keyboard.press("Tab")
    await expect(page.get_by_label("Name, id or address")).to_be_focused()
    for name in ("Capability", "Mode", "Health", "Node"):
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("combobox", name=name, exact=True)).to_be_focused()
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("button", name="Clear")).to_be_focused()
    await page.keyboard.press("Tab")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("button", name="svc-0")).to_be_focused()
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("ArrowDown")
    await expect(page.get_by_role("button", name="svc-2")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("complementary").get_by_role("heading", name="svc-2")).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("button", name="svc-2")).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_each_view_is_legible_in_both_schemes(watched: Watched, scheme: Scheme):
    here = await tab(watched.browser, watched.beta.url, scheme)
    grounds = set()
    for view in VIEWS:
        await here.go(view)
        await expect(here.page.get_by_role("heading", level=1)).to_be_visible()
        colour = await here.page.evaluate("getComputedStyle(document.body).backgroundColor")
        grounds.add(sum(map(int, colour.removeprefix("rgb(").rstrip(")").split(","))) > 384)
    assert grounds == {scheme == "light"}
    here.is_clean()


async def test_every_control_has_a_name_and_headings_are_in_order(watched: Watched):
    watched.beta.register("hi-rag", id="1", port=8086, metadata={"model": "bge-m3"})
    here = watched.tab
    session = await here.page.context.new_cdp_session(here.page)
    for view in ("mesh", "services?open=hi-rag/beta/1", "timeline", "trust"):
        await here.go(view)
        known = here.page.get_by_text("hi-rag").or_(here.page.get_by_text("node beta"))
        await expect(known.filter(visible=True).first).to_be_visible()
        nodes = (await session.send("Accessibility.getFullAXTree"))["nodes"]
        shown = [(node["role"]["value"], node) for node in nodes if not node["ignored"]]
        assert not [role for role, node in shown if role in NAMED and not node["name"]["value"]]
        assert {"banner", "navigation", "main"} <= {role for role, _ in shown}
        headings = await here.page.locator("h1, h2, h3").filter(visible=True).all()
        levels = [int(await one.evaluate("heading => heading.tagName[1]")) for one in headings]
        assert levels[0] == 1
        assert all(later - earlier <= 1 for earlier, later in pairwise(levels)), levels
