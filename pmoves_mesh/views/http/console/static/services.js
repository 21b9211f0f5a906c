// The view of the services: all instances, filtered as one types, and one of them in full beside.

import { choice, h, offer, settled, typed } from "./dom.js";
import { address, count } from "./format.js";
import { condition, instanceMark, kindOf } from "./marks.js";
import { Record } from "./record.js";
import { keep } from "./routes.js";
import { keyOf, store } from "./store.js";
import { Table } from "./table.js";

const HEALTH = ["healthy", "unhealthy", "unknown", "maintenance", "node lost", "node left"];
const MODES = ["docked", "standalone"];
const OFFERED_MAX = 1000;

/** The columns in which instances are shown. */
export const COLUMNS = [
  { name: "Service", width: 16, cell: (one) => one.name },
  { name: "Health", width: 16, cell: instanceMark },
  { name: "Node", width: 12, cell: (one) => one.node },
  {
    name: "Address",
    width: 17,
    cell: (one) => h("code", {}, one.port ? address(one.host, one.port) : one.host),
  },
  { name: "Mode", width: 9, minor: true, cell: (one) => one.mode },
  { name: "Capabilities", width: 17, cell: (one) => one.capabilities.join(", ") },
  { name: "Id", width: 13, minor: true, cell: (one) => h("code", {}, one.id) },
];

/** Opens the view; the query of the address says what is filtered, and which instance is open. */
export function open(place, query) {
  const wanted = { name: "", capability: "", mode: "", health: "", node: "", open: "", ...query };
  const found = h("p", { class: "found", role: "status" });
  const name = typed("Name, id or address", (text) => change({ name: text }), {
    value: wanted.name,
    placeholder: "hi-rag",
  });
  const selects = {
    capability: choice(
      "Capability",
      [["", "any"]],
      (value) => change({ capability: value }),
      wanted.capability,
    ),
    mode: choice("Mode", [["", "any"], ...pairs(MODES)], (value) => change({ mode: value }), wanted.mode),
    health: choice(
      "Health",
      [["", "any"], ...pairs(HEALTH)],
      (value) => change({ health: value }),
      wanted.health,
    ),
    node: choice("Node", [["", "any"]], (value) => change({ node: value }), wanted.node),
  };
  const clear = h("button", { type: "button", onclick: reset }, "Clear");
  const table = new Table({
    label: "Instances",
    columns: COLUMNS,
    keyOf,
    open: (one) => show(keyOf(one)),
    kind: kindOf,
  });
  const record = new Record(() => show(""));
  const remember = settled(() => keep("services", wanted), 250);
  place.append(
    h("div", { class: "headed" }, h("h1", { tabindex: -1 }, "Services"), found),
    h(
      "div",
      { class: "filters", role: "search", "aria-label": "Filter" },
      name.element,
      Object.values(selects).map((one) => one.element),
      clear,
    ),
    h(
      "div",
      { class: "split" },
      h("section", { "aria-label": "Instances", class: "fills" }, table.element),
      record.element,
    ),
  );
  let offered = null;

  function change(some) {
    Object.assign(wanted, some);
    list();
    remember();
  }

  function reset() {
    for (const one of Object.values(selects)) one.select.value = "";
    name.input.value = "";
    change({ name: "", capability: "", mode: "", health: "", node: "" });
    name.input.focus();
  }

  function list() {
    const all = store.shown.sorted();
    const some = filtered(all, wanted);
    table.show(some);
    found.textContent =
      some.length === all.length
        ? count(all.length, "instance")
        : `${some.length.toLocaleString("en-GB")} of ${count(all.length, "instance")}`;
  }

  /** Opens an instance beside the list, or closes what is open and goes back to its row. */
  function show(key) {
    const before = wanted.open;
    wanted.open = key;
    table.select(key);
    record.show(store.shown.instances.get(key), key);
    if (key) record.focus();
    else if (before) table.view.focus(before);
    remember();
  }

  function update() {
    const all = store.shown.sorted();
    if (offered !== all) {
      offered = all;
      offer(selects.capability.select, [["", "any"], ...pairs(words(all, (one) => one.capabilities))]);
      offer(selects.node.select, [["", "any"], ...pairs(words(all, (one) => [one.node]))]);
    }
    list();
    table.select(wanted.open);
    record.show(store.shown.instances.get(wanted.open), wanted.open);
  }

  return {
    update,
    close() {
      table.close();
      record.close();
    },
  };
}

/** Returns the instances that are asked for, in their order. */
function filtered(instances, { name, capability, mode, health, node }) {
  const text = name.trim().toLowerCase();
  return instances.filter(
    (one) =>
      (!text ||
        one.name.includes(text) ||
        one.id.toLowerCase().includes(text) ||
        `${one.host}:${one.port}`.includes(text)) &&
      (!capability || one.capabilities.includes(capability)) &&
      (!mode || one.mode === mode) &&
      (!node || one.node === node) &&
      (!health || condition(one) === health),
  );
}

function words(instances, of) {
  const found = new Set();
  for (const one of instances) for (const word of of(one)) found.add(word);
  return [...found].sort().slice(0, OFFERED_MAX);
}

function pairs(some) {
  return some.map((one) => [one, one]);
}
