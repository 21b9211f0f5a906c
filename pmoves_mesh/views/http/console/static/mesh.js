// The view of the mesh: every node as a card, and who reaches whom as a drawing.

import { maintainNode } from "./actions.js";
import { fill, h } from "./dom.js";
import { address, ago, count, identity, resources } from "./format.js";
import { Loads } from "./loads.js";
import { Chart } from "./map.js";
import { instanceMark, kindOf, mark, meter, nodeMark } from "./marks.js";
import { store } from "./store.js";
import { facts } from "./table.js";
import { Viewport } from "./viewport.js";

const CARD_PX = 320;
const CHIPS = 8;
const DRAWN_MAX = 24;

/** Opens the view. */
export function open(place) {
  const totals = h("dl", { class: "totals" });
  const above = h("li", { class: "spacer", "aria-hidden": "true" });
  const below = h("li", { class: "spacer", "aria-hidden": "true" });
  const cards = h("ul", { class: "cards" }, above, below);
  const scroller = h(
    "div",
    { class: "scroller", role: "region", tabindex: 0, "aria-label": "Nodes, scrolls" },
    cards,
  );
  const chart = new Chart();
  const loads = new Loads(update);
  const items = new Map();
  const view = new Viewport({
    scroller,
    host: cards,
    above,
    below,
    height: CARD_PX,
    build: (item) => card(item),
    perRow: () => getComputedStyle(cards).gridTemplateColumns.split(" ").length,
  });
  scroller.addEventListener("scroll", want, { passive: true });
  place.append(
    h("div", { class: "headed" }, h("h1", { tabindex: -1 }, "Mesh"), totals),
    h(
      "div",
      { class: "mesh" },
      h("section", { "aria-label": "Nodes", class: "fills" }, scroller),
      chart.element,
    ),
  );

  function update() {
    const { nodes } = store.shown;
    const grouped = store.shown.byNode();
    const names = [...nodes.keys()].sort();
    const shown = names.map((name) =>
      renewed(items, nodes.get(name), grouped.get(name) ?? [], store.past ? undefined : loads.of(name)),
    );
    for (const name of items.keys()) if (!nodes.has(name)) items.delete(name);
    summarise(totals);
    view.show(shown);
    chart.show(shown, store.own);
    want();
  }

  /** Wants the leases of the nodes that are seen; of few nodes, all of them. */
  function want() {
    const seen = [...cards.querySelectorAll("li[data-key]")].map((one) => one.dataset.key);
    const names = store.past ? [] : items.size <= DRAWN_MAX ? [...items.keys()] : seen;
    loads.want(names.filter((name) => items.get(name)?.node.status === "alive"));
  }

  return {
    update,
    close() {
      view.close();
      loads.close();
    },
  };
}

/** Returns the same item for a node as before, unless something of it is another. */
function renewed(items, node, instances, lease) {
  const held = items.get(node.name);
  const own = node.name === store.own;
  const same =
    held &&
    held.node === node &&
    held.lease === lease &&
    held.own === own &&
    held.past === Boolean(store.past);
  if (
    same &&
    held.instances.length === instances.length &&
    held.instances.every((one, index) => one === instances[index])
  ) {
    return held;
  }
  const item = { node, instances, lease, own, past: Boolean(store.past) };
  items.set(node.name, item);
  return item;
}

function summarise(totals) {
  const nodes = [...store.shown.nodes.values()];
  const kinds = { good: 0, bad: 0, warn: 0, idle: 0 };
  for (const one of store.shown.instances.values()) kinds[kindOf(one)] += 1;
  const alive = nodes.filter((node) => node.status === "alive").length;
  const rows = [
    ["Nodes alive", `${alive} of ${nodes.length}`, alive < nodes.length ? "warn" : ""],
    ["Instances", store.shown.instances.size.toLocaleString("en-GB"), ""],
    ["Healthy", kinds.good, "good"],
    ["Unhealthy or lost", kinds.bad, kinds.bad ? "bad" : ""],
    ["In maintenance", kinds.warn, kinds.warn ? "warn" : ""],
    ["Not checked", kinds.idle, ""],
  ];
  fill(
    totals,
    rows.map(([name, value, kind]) =>
      h("div", { class: kind }, h("dt", {}, name), h("dd", {}, String(value))),
    ),
  );
}

function card(item) {
  const { node, instances, lease, own } = item;
  const title = `node-${node.name}`;
  return h(
    "li",
    { class: "slot", "data-key": node.name },
    h(
      "article",
      { class: `card ${node.status}`, "aria-labelledby": title },
      h(
        "header",
        {},
        h("h2", { id: title }, node.name),
        own && h("span", { class: "tag" }, "this agent"),
        nodeMark(node),
      ),
      facts([
        ["Address", h("code", {}, address(node.host, node.port))],
        ["Mode", node.mode],
        ["Lease", leaseOf(item)],
        ["Has", has(node)],
        ["Reaches", reaches(lease)],
      ]),
      lease?.load
        ? loadOf(lease.load)
        : h(
            "p",
            { class: "loads quiet" },
            item.past ? "Load is not kept in the stream." : "No load is known.",
          ),
      served(node, instances),
      h(
        "footer",
        {},
        h("a", { href: listOf(node) }, count(instances.length, "instance")),
        h("span", { class: "quiet" }, signed(node)),
        own && !item.past && maintenance(node, instances),
      ),
    ),
  );
}

function has(node) {
  const text = resources(node.resources).join(" · ");
  return text ? h("span", { title: text }, text) : "not told";
}

function leaseOf({ node, lease }) {
  const seen = `seen ${ago(node.last_seen)}`;
  if (node.status !== "alive") return `none, ${seen}`;
  return lease?.load
    ? `held, read ${Math.round(lease.load.age_s)} s ago${lease.load.stale ? ", stale" : ""}`
    : `held, ${seen}`;
}

/** Returns whom a node reaches; why it does not reach another stands below the drawing too. */
function reaches(lease) {
  const ways = Object.entries(lease?.reaches ?? {});
  const marks = ways.map(([name, problem]) =>
    problem ? mark("bad", `not ${name}`, problem) : mark("good", name),
  );
  return marks.length ? marks : null;
}

/** Returns who signed what a node announced. */
function signed(node) {
  const by = identity(node.signer);
  if (!node.verified) return "unsigned";
  return by === `node ${node.name}` ? "signed by itself" : `signed by ${by}`;
}

function loadOf(load) {
  return h(
    "p",
    { class: "loads" },
    meter("CPU", load.cpu),
    meter("Memory", load.memory),
    load.gpu !== null && meter("GPU", load.gpu),
  );
}

/** Returns the services of a node, those that want attention first. */
function served(node, instances) {
  const rank = { bad: 0, warn: 1, idle: 2, good: 3 };
  const ordered = [...instances].sort((one, other) => rank[kindOf(one)] - rank[kindOf(other)]);
  if (!ordered.length) return h("p", { class: "chips quiet" }, "No services.");
  const chips = ordered
    .slice(0, CHIPS)
    .map((one) =>
      h(
        "li",
        {},
        h(
          "a",
          { href: `${listOf(node)}&name=${encodeURIComponent(one.name)}`, class: kindOf(one) },
          one.name,
          " ",
          instanceMark(one),
        ),
      ),
    );
  return h("ul", { class: "chips", "aria-label": `Services of ${node.name}` }, chips);
}

function listOf(node) {
  return `#/services?node=${encodeURIComponent(node.name)}`;
}

function maintenance(node, instances) {
  const on = instances.length > 0 && instances.every((one) => one.maintenance);
  return h(
    "button",
    { type: "button", onclick: () => maintainNode(node.name, !on) },
    on ? "End maintenance" : "Maintenance…",
  );
}
