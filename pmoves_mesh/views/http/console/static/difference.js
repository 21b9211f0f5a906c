// What is different between two moments of the stream.

import { get } from "./api.js";
import { h, say, typed } from "./dom.js";
import { count, exact } from "./format.js";
import { mark } from "./marks.js";
import { store } from "./store.js";
import { Table } from "./table.js";

const KINDS = { added: "good", removed: "bad", changed: "warn" };
const TEXT_MAX = 160;

/** Two moments that are typed in or taken from the slider, and what differs. */
export class Difference {
  constructor() {
    this.from = typed("From: a time, a position, or 15m, 1h, 7d ago", () => {}, {
      value: "15m",
      type: "text",
    });
    this.to = typed("To", () => {}, { value: "now", type: "text" });
    this.said = h("p", { class: "found", role: "status" });
    this.problem = h("p", { class: "problem", role: "alert" });
    this.table = new Table({
      label: "Differences",
      columns: [
        { name: "What", width: 22, cell: (one) => one.what },
        { name: "Change", width: 12, cell: (one) => mark(KINDS[one.change], one.change) },
        { name: "Node", width: 14, cell: (one) => one.node },
        { name: "Fields", width: 52, cell: (one) => one.fields },
      ],
      keyOf: (one) => one.key,
      kind: (one) => KINDS[one.change],
      open: (one) => {
        if (one.open) location.hash = one.open;
      },
      empty: "Nothing differs between these two moments.",
    });
    const slider = (name, input) =>
      h(
        "button",
        {
          type: "button",
          "aria-label": `${name} is the slider's moment`,
          onclick: () => (input.value = String(store.moment?.position ?? "now")),
        },
        "⤒ slider",
      );
    const form = h(
      "form",
      { class: "filters", onsubmit: (event) => this.submit(event) },
      this.from.element,
      slider("From", this.from.input),
      this.to.element,
      slider("To", this.to.input),
      h("button", { type: "submit", class: "main" }, "Compare"),
    );
    this.table.element.hidden = true;
    this.element = h("div", { class: "fills" }, form, this.said, this.problem, this.table.element);
  }

  submit(event) {
    event.preventDefault();
    this.compare();
  }

  async compare() {
    this.asking?.abort();
    this.asking = new AbortController();
    try {
      const { body } = await get(
        "api/diff",
        { from: this.from.input.value.trim(), to: this.to.input.value.trim() },
        this.asking.signal,
      );
      say(this.problem, "");
      this.draw(body);
    } catch (error) {
      if (error.name === "AbortError") return;
      say(this.problem, error.detail ?? String(error));
      say(this.said, "");
      this.table.element.hidden = true;
    }
  }

  draw(found) {
    const rows = [...nodesOf(found.nodes), ...instancesOf(found)];
    const number = (change) => rows.filter((one) => one.change === change).length;
    say(
      this.said,
      `From ${exact(found.from.time)} (position ${found.from.position}) to ${exact(found.to.time)} (position ${found.to.position}): ${number("added")} added, ${number("removed")} removed, ${count(number("changed"), "change")}.`,
    );
    this.table.element.hidden = false;
    this.table.show(rows);
  }

  close() {
    this.asking?.abort();
    this.table.close();
  }
}

function instancesOf({ added, removed, changed }) {
  const row = (change, one, fields) => ({
    key: `${change} ${one.name}/${one.node}/${one.id}`,
    what: `${one.name} (${one.id})`,
    open: `#/services?open=${encodeURIComponent(`${one.name}/${one.node}/${one.id}`)}`,
    node: one.node,
    change,
    fields,
  });
  return rowsOf({ added, removed, changed }, row);
}

function nodesOf({ added, removed, changed }) {
  const row = (change, one, fields) => ({
    key: `${change} ${one.name}`,
    what: `node ${one.name}`,
    open: "#/mesh",
    node: one.name,
    change,
    fields,
  });
  return rowsOf({ added, removed, changed }, row);
}

function rowsOf({ added, removed, changed }, row) {
  return [
    ...added.map((one) => row("added", one, summary(one))),
    ...removed.map((one) => row("removed", one, summary(one))),
    ...changed.map(({ before, after, fields }) =>
      row(
        "changed",
        after,
        fields.map((name) => `${name}: ${short(before[name])} → ${short(after[name])}`).join("; "),
      ),
    ),
  ];
}

function summary(one) {
  return [one.status ?? one.health_status, one.port ? `${one.host}:${one.port}` : one.host, one.mode]
    .filter(Boolean)
    .join(", ");
}

function short(value) {
  const text = typeof value === "string" ? value || '""' : JSON.stringify(value);
  return text.length > TEXT_MAX ? `${text.slice(0, TEXT_MAX)}…` : text;
}
