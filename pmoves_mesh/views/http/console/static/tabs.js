// Tabs: one panel at a time, chosen by its name; the arrows go from one to the next.

import { h } from "./dom.js";

/** Panels by their names, the first of them open.
 *
 * Source: WAI-ARIA Authoring Practices, the pattern of tabs. */
export class Tabs {
  constructor(panels) {
    this.tabs = panels.map(([name], index) =>
      h(
        "button",
        {
          type: "button",
          role: "tab",
          id: `tab-${index}`,
          "aria-controls": `panel-${index}`,
          onclick: () => this.choose(index),
        },
        name,
      ),
    );
    this.panels = panels.map(([, content], index) =>
      h(
        "div",
        { role: "tabpanel", id: `panel-${index}`, "aria-labelledby": `tab-${index}`, class: "fills" },
        content,
      ),
    );
    const list = h("div", { role: "tablist", class: "tabs", "aria-label": "What of the stream" }, this.tabs);
    list.addEventListener("keydown", (event) => this.walk(event));
    this.element = h("div", { class: "fills" }, list, this.panels);
    this.choose(0);
  }

  choose(chosen) {
    this.chosen = chosen;
    this.tabs.forEach((tab, index) => {
      tab.setAttribute("aria-selected", String(index === chosen));
      tab.tabIndex = index === chosen ? 0 : -1;
    });
    this.panels.forEach((panel, index) => {
      panel.hidden = index !== chosen;
    });
  }

  walk(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    this.choose((this.chosen + step + this.tabs.length) % this.tabs.length);
    this.tabs[this.chosen].focus();
  }
}
