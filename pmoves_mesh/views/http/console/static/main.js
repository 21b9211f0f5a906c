// The page itself: which view is open, how the agent fares, and what every view has above it.

import { announce, fill, h, say } from "./dom.js";
import { clock, span } from "./format.js";
import { follow } from "./live.js";
import { remark } from "./marks.js";
import * as mesh from "./mesh.js";
import { current } from "./routes.js";
import * as services from "./services.js";
import { store } from "./store.js";
import * as timeline from "./timeline.js";
import * as trust from "./trust.js";

const NEWS_MAX = 3;
const VIEWS = { mesh, services, timeline, trust };
const content = document.getElementById("content");
const state = document.getElementById("state");
const where = document.getElementById("where");
const banners = document.getElementById("banners");

let opened = null;

/** Opens the view that the address names. */
function go(moved = true) {
  const { name, query } = current();
  const view = VIEWS[name] ?? mesh;
  opened?.close();
  fill(content);
  content.className = name;
  opened = view.open(content, query);
  for (const link of document.querySelectorAll(".bar nav a")) {
    if (link.getAttribute("href") === `#/${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  opened.update();
  title();
  if (moved) content.querySelector("h1").focus();
}

function title() {
  const name = content.querySelector("h1")?.textContent ?? "";
  document.title = `${name} · ${store.facts.mesh ?? "pmoves-mesh"}`;
}

/** Shows how this agent and what it says fare; a banner stands for what must not be overlooked. */
function head() {
  const { answering, watching, stale, position } = store.state;
  const fine = answering && watching && stale === null;
  if (!answering) remark(state, "bad", "No answer");
  else if (stale !== null) remark(state, "warn", "Stale");
  else if (!watching) remark(state, "warn", "Connecting");
  else remark(state, "good", "Live");
  say(document.getElementById("mesh"), store.facts.mesh ?? "pmoves-mesh");
  say(where, [store.own, `position ${position}`].filter(Boolean).join(" · "));
  const told = [];
  if (!answering) told.push(["bad", "This agent does not answer. What you see is what it said last."]);
  else if (stale !== null) told.push(["warn", staleness(stale)]);
  if (store.moment)
    told.push([
      "past",
      `You look at the registry as it was at ${clock(store.moment.time)}, position ${store.moment.position}.`,
    ]);
  if (fine) for (const warning of store.facts.warnings ?? []) told.push(["warn", warning]);
  banner(told);
}

function staleness(stale) {
  const age = stale === "unknown" ? "It was never current" : `It was current ${span(Number(stale))} ago`;
  const cut =
    store.facts.connected === false ? "NATS cannot be reached" : "It is catching up with the stream";
  return `This replica is stale. ${age}. ${cut}, so what you see may be out of date.`;
}

/** Shows banners; one whose words remain stays in its place, so that it is read out once. */
function banner(told) {
  const wanted = told.map(([kind]) => kind).join();
  if (banners.dataset.kinds !== wanted) {
    banners.dataset.kinds = wanted;
    fill(
      banners,
      told.map(([kind]) => h("p", { class: `banner ${kind}` }, h("span", {}), kind === "past" && back())),
    );
  }
  told.forEach(([, text], index) => say(banners.children[index].firstChild, text));
}

function back() {
  return h("button", { type: "button", onclick: leave }, "Back to now");
}

function leave() {
  store.showNow();
  content.querySelector("h1").focus();
}

/** Tells of instances whose condition has changed; of many at once, how many. */
function tell() {
  const news = store.news.splice(0);
  if (news.length)
    announce(news.length > NEWS_MAX ? `${news.length} instances have changed.` : news.join(" "));
}

store.listen(() => {
  tell();
  head();
  title();
  opened.update();
});
window.addEventListener("hashchange", () => go());
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  content.querySelector("h1").focus();
});
go(false);
follow();
