// A moment of the stream, chosen on a slider: every view then shows the registry as it was.

import { get } from "./api.js";
import { choice, fill, h, say, settled, svg } from "./dom.js";
import { clock, count, exact, identity } from "./format.js";
import { store } from "./store.js";

const MINUTE_MS = 60_000;
const WINDOWS = [
  ["900", "last 15 minutes"],
  ["3600", "last hour"],
  ["21600", "last 6 hours"],
  ["86400", "last day"],
  ["604800", "last 7 days"],
  ["", "the whole stream"],
];
const STEPS = 1000;
const BARS = 120;
const SETTLED_MS = 120;

/** The slider, what it says, and the bars above it that show when there were events. */
export class Moment {
  constructor(onmove) {
    this.onmove = onmove;
    this.window = "3600";
    this.events = [];
    this.slider = h("input", {
      type: "range",
      id: "moment",
      "aria-label": "Moment",
      min: 0,
      max: 1,
      step: 1,
      oninput: () => this.moved(),
    });
    this.bars = svg("svg", {
      class: "bars",
      viewBox: `0 0 ${BARS} 24`,
      preserveAspectRatio: "none",
      "aria-hidden": "true",
    });
    this.told = h("output", { for: "moment", class: "told" });
    this.problem = h("p", { class: "problem", role: "alert" });
    this.ends = h("p", { class: "ends quiet", "aria-hidden": "true" }, h("span"), h("span"));
    const step = (text, name, by) =>
      h("button", { type: "button", "aria-label": name, onclick: () => this.step(by) }, text);
    this.now = h("button", { type: "button", onclick: () => this.leave() }, "Now");
    const range = choice(
      "Slider shows",
      WINDOWS,
      (value) => {
        this.window = value;
        this.stretch();
      },
      this.window,
    );
    this.element = h(
      "section",
      { class: "moment", "aria-label": "Moment" },
      h(
        "div",
        { class: "line" },
        this.told,
        step("◀", "One event back", -1),
        step("▶", "One event on", 1),
        this.now,
        range.element,
      ),
      this.bars,
      this.slider,
      this.ends,
      this.problem,
    );
    this.fetch = settled((at) => this.go(at), SETTLED_MS);
  }

  /** Takes up where the stream begins and ends, and its events that are known here. */
  update({ first, last, events }) {
    const changed =
      first?.position !== this.first?.position ||
      last?.position !== this.last?.position ||
      events.length !== this.events.length;
    Object.assign(this, { first, last, events });
    if (changed) this.stretch();
    this.describe();
  }

  /** Fits the slider to its window; one that stands at its end stays there. */
  stretch() {
    if (!this.first || !this.last) return;
    const end = Math.max(Date.parse(this.last.time), this.clockMs());
    const begin = Date.parse(this.first.time) + 1; // of a time in milliseconds the rest is cut off
    const from = this.window ? Math.max(begin, end - Number(this.window) * 1000) : begin;
    [this.from, this.to] = [Math.min(from, end - MINUTE_MS / 60), end];
    this.slider.min = String(this.from);
    this.slider.max = String(this.to);
    this.slider.step = String(Math.max(1, Math.round((this.to - this.from) / STEPS)));
    this.slider.value = String(store.moment ? this.at : this.to);
    const [left, right] = this.ends.children;
    say(left, clock(this.from));
    say(right, "now");
    this.draw();
  }

  /** Returns the time of the stream's end, which is not this browser's: later than its last event by how long that is known. */
  clockMs() {
    const known = `${this.last.position}`;
    if (this.known !== known) Object.assign(this, { known, since: performance.now() });
    return Date.parse(this.last.time) + performance.now() - this.since;
  }

  /** Draws how many of the known events fall into each piece of the slider. */
  draw() {
    const counts = new Array(BARS).fill(0);
    for (const event of this.events) {
      const place = Math.floor(((Date.parse(event.time) - this.from) / (this.to - this.from)) * BARS);
      if (place >= 0) counts[Math.min(place, BARS - 1)] += 1;
    }
    const most = Math.max(...counts, 1);
    const tall = (number) => 3 + (20 * Math.log1p(number)) / Math.log1p(most);
    fill(
      this.bars,
      counts.map(
        (number, place) =>
          number > 0 &&
          svg("rect", { x: place + 0.1, width: 0.8, y: 24 - tall(number), height: tall(number) }),
      ),
    );
  }

  moved() {
    const at = Number(this.slider.value);
    if (at >= this.to - Number(this.slider.step)) return this.leave();
    say(this.told, exact(at));
    this.slider.setAttribute("aria-valuetext", exact(at));
    this.fetch(new Date(at).toISOString());
    return undefined;
  }

  /** Goes to the event before or after the one that is shown. */
  step(by) {
    const here = store.moment?.position ?? Infinity;
    const places = this.events.map((event) => event.position);
    const found = by < 0 ? places.find((one) => one < here) : places.findLast((one) => one > here);
    if (found !== undefined) this.go(found);
    else if (by > 0) this.leave();
  }

  /** Shows the registry as it was at a moment, such as a position or a time. */
  async go(at) {
    this.asking?.abort();
    this.asking = new AbortController();
    const { signal } = this.asking;
    try {
      const [services, nodes] = await Promise.all([
        get("api/services", { at }, signal),
        get("api/nodes", { at }, signal),
      ]);
      say(this.problem, "");
      store.showPast(services.body.services, nodes.body.nodes, services.body.at);
      // Where somebody put the slider it stays, though the last event before may be long before.
      this.at = typeof at === "number" ? Date.parse(services.body.at.time) : Date.parse(at);
      this.slider.value = String(this.at);
      this.describe();
      this.onmove();
    } catch (error) {
      if (error.name !== "AbortError") say(this.problem, error.detail ?? String(error));
    }
  }

  /** Goes back to now. */
  leave() {
    this.asking?.abort();
    this.fetch.cancel();
    say(this.problem, "");
    this.slider.value = this.slider.max;
    store.showNow();
    this.describe();
    this.onmove();
  }

  describe() {
    const at = store.moment;
    const held = `${count(store.shown.nodes.size, "node")}, ${count(store.shown.instances.size, "instance")}`;
    const base = at?.checkpoint
      ? ` · from the checkpoint at ${at.checkpoint.position}, signed by ${identity(at.checkpoint.signer)}`
      : "";
    say(
      this.told,
      at
        ? `${exact(at.time)} · position ${at.position} · ${held}${base}`
        : `Now · position ${store.state.position} · ${held}`,
    );
    this.slider.setAttribute("aria-valuetext", at ? exact(at.time) : "now");
    this.now.disabled = !at;
    this.element.classList.toggle("past", Boolean(at));
  }

  close() {
    this.asking?.abort();
    this.fetch.cancel();
  }
}
