// The events of the stream: the latest, older ones as they are scrolled to, and new ones as they come.

import { get, route } from "./api.js";
import { framed } from "./dom.js";
import { pause, stream } from "./live.js";

const FIRST = 200;
const OLDER = 500;
const AGAIN_MS = 2000;
const KEPT_MAX = 50_000;

/** The events that match, the latest first, until it is closed. */
export class Feed {
  events = [];
  first = null; // of the whole stream: {position, time}
  last = null;
  more = false;
  problem = "";
  live = false;

  constructor(wanted, onchange) {
    this.wanted = wanted;
    this.waiting = [];
    this.ending = new AbortController();
    this.tell = framed(() => {
      this.take();
      if (!this.ending.signal.aborted) onchange(this);
    });
    this.begin();
  }

  /** Reads the latest, again and again while the agent cannot tell, and then follows. */
  async begin() {
    let body = null;
    while (!(body = await this.read({ order: "desc", limit: FIRST }))) {
      if (this.ending.signal.aborted) return;
      await pause(AGAIN_MS);
    }
    if (this.ending.signal.aborted) return;
    this.events = body.events;
    this.go(body);
    const after = body.last?.position ?? this.events[0]?.position ?? 0;
    const path = (last) => route("api/events", { ...this.wanted, after: last || after });
    this.end = stream(path, { event: (event) => this.come(event) }, (live) => {
      this.live = live;
      this.tell();
    });
    this.tell();
  }

  /** Reads older events, unless that is under way. */
  async older() {
    if (!this.more || this.busy || this.events.length > KEPT_MAX) return;
    this.busy = true;
    const body = await this.read({ order: "desc", limit: OLDER, before: this.next });
    this.busy = false;
    if (!body) return;
    this.events = [...this.events, ...body.events];
    this.go(body);
    this.tell();
  }

  /** Takes note of where older events are. A page may be empty, where few of many match. */
  go({ events, more, next }) {
    this.more = more;
    this.next = next ?? events.at(-1)?.position;
  }

  /** Returns the event at a position, read if it is not here. */
  async at(position) {
    const here = this.events.find((event) => event.position === position);
    if (here) return here;
    const body = await this.read({ after: position - 1, before: position + 1, limit: 1, order: "asc" }, {});
    return body?.events.find((event) => event.position === position) ?? null;
  }

  async read(query, wanted = this.wanted) {
    try {
      const { body } = await get("api/events", { ...wanted, ...query }, this.ending.signal);
      this.first = body.first ?? this.first;
      this.last = body.last ?? this.last;
      this.problem = "";
      return body;
    } catch (error) {
      if (error.name === "AbortError") return null;
      this.problem = error.detail ?? String(error);
      this.tell();
      return null;
    }
  }

  come(event) {
    this.waiting.push(event);
    this.tell();
  }

  /** Puts what has come before what was there; what was told twice is taken once. */
  take() {
    const newest = this.events[0]?.position ?? 0;
    const fresh = this.waiting.filter((event) => event.position > newest);
    this.waiting = [];
    this.added = fresh.length;
    if (!fresh.length) return;
    this.events = [...fresh.reverse(), ...this.events];
    this.last = { position: this.events[0].position, time: this.events[0].time };
  }

  close() {
    this.ending.abort();
    this.end?.();
  }
}
