// A table of any length: a real one, with its headings, rows that are counted, and keys that walk through it.

import { h } from "./dom.js";
import { Viewport } from "./viewport.js";

const ROW_PX = 37;

/** A table whose rows are records.
 *
 * `columns` are {name, width, minor, cell}: `cell(record)` returns text or an element; minor ones are left out
 * where there is little room. The first column's text is a button that opens the record, and of these buttons
 * the keyboard stops at one: the arrows go to the others. */
export class Table {
  constructor({ label, columns, keyOf, open, kind = () => "", empty = "Nothing matches." }) {
    Object.assign(this, { columns, keyOf, open, kind });
    this.current = 0;
    this.above = h("tr", { class: "spacer", "aria-hidden": "true" });
    this.below = h("tr", { class: "spacer", "aria-hidden": "true" });
    this.body = h("tbody", {}, this.above, this.below);
    const heads = columns.map(head);
    this.table = h(
      "table",
      { "aria-label": label, class: "long" },
      h("thead", {}, h("tr", { "aria-rowindex": 1 }, heads)),
      this.body,
    );
    this.none = h("p", { class: "none", hidden: true }, empty);
    this.element = h(
      "div",
      { class: "scroller", role: "region", tabindex: 0, "aria-label": `${label}, scrolls` },
      this.table,
      this.none,
    );
    this.element.addEventListener("keydown", (event) => this.walk(event));
    this.view = new Viewport({
      scroller: this.element,
      host: this.body,
      above: this.above,
      below: this.below,
      height: ROW_PX,
      build: (record, index) => this.row(record, index),
    });
  }

  /** Shows other records. */
  show(records) {
    this.current = Math.max(0, Math.min(this.current, records.length - 1));
    this.table.setAttribute("aria-rowcount", String(records.length + 1));
    this.none.hidden = records.length > 0;
    this.table.hidden = records.length === 0;
    this.view.show(records);
    this.stop();
  }

  /** Marks the record that is open, or none. */
  select(key) {
    this.selected = key;
    for (const row of this.body.querySelectorAll("tr[data-row]")) mark(row, row.dataset.row === key);
  }

  row(record, index) {
    const key = this.keyOf(record);
    const cells = this.columns.map((column, place) => {
      const shown = column.cell(record);
      const inner = place === 0 ? this.opener(record, key, index, shown) : shown;
      return h(
        place === 0 ? "th" : "td",
        { scope: place === 0 && "row", class: column.minor && "minor" },
        inner,
      );
    });
    const row = h(
      "tr",
      { class: this.kind(record) || null, "data-row": key, "aria-rowindex": index + 2 },
      cells,
    );
    mark(row, key === this.selected);
    row.addEventListener("click", (event) => {
      if (!event.target.closest("button, a")) this.chosen(record, index);
    });
    return row;
  }

  opener(record, key, index, shown) {
    const tabindex = index === this.current ? 0 : -1;
    return h(
      "button",
      {
        type: "button",
        class: "open",
        "data-key": key,
        "data-index": index,
        tabindex,
        onclick: () => this.chosen(record, index),
      },
      shown,
    );
  }

  chosen(record, index) {
    this.current = index;
    this.stop();
    this.open(record);
  }

  /** Lets the keyboard stop at the current row only. */
  stop() {
    for (const button of this.body.querySelectorAll("button.open")) {
      button.tabIndex = Number(button.dataset.index) === this.current ? 0 : -1;
    }
  }

  walk(event) {
    const page = Math.max(1, Math.floor(this.element.clientHeight / ROW_PX) - 2);
    const steps = {
      ArrowDown: 1,
      ArrowUp: -1,
      PageDown: page,
      PageUp: -page,
      Home: -Infinity,
      End: Infinity,
    };
    const step = steps[event.key];
    if (step === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const at = event.target.dataset?.index;
    const from = at === undefined ? this.current - Math.sign(step) : Number(at);
    this.current = Math.max(0, Math.min(this.view.items.length - 1, from + step));
    this.view.reveal(this.current);
    this.stop();
    this.body.querySelector(`button.open[data-index="${this.current}"]`)?.focus({ preventScroll: true });
  }

  close() {
    this.view.close();
  }
}

function head({ name, width, minor }) {
  const cell = h("th", { scope: "col", class: minor && "minor" }, name);
  cell.style.width = `${width}%`;
  return cell;
}

function mark(row, chosen) {
  row.classList.toggle("chosen", chosen);
  if (chosen) row.setAttribute("aria-current", "true");
  else row.removeAttribute("aria-current");
}

/** Returns a short table as it is, of rows of texts or elements. */
export function plainTable(label, heads, rows, empty) {
  if (!rows.length) return h("p", { class: "none" }, empty);
  const body = rows.map((row) =>
    h(
      "tr",
      {},
      row.map((cell, place) => (place ? h("td", {}, cell) : h("th", { scope: "row" }, cell))),
    ),
  );
  const heading = h(
    "thead",
    {},
    h(
      "tr",
      {},
      heads.map((name) => h("th", { scope: "col" }, name)),
    ),
  );
  return h(
    "div",
    { class: "framed", role: "region", "aria-label": label, tabindex: 0 },
    h("table", { "aria-label": label }, heading, h("tbody", {}, body)),
  );
}

/** Returns names and what they stand for. */
export function facts(pairs) {
  const shown = pairs.filter(
    ([, value]) => value !== "" && value !== null && value !== undefined && value !== false,
  );
  return h(
    "dl",
    { class: "facts" },
    shown.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );
}
