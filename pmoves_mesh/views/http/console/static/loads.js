// What only a node's lease says: how loaded it is, and whom it reaches. Read for those nodes that are looked at.

import { get, part } from "./api.js";
import { framed } from "./dom.js";
import { pause } from "./live.js";

const EVERY_MS = 3000;
const AT_ONCE = 6;

/** Reads the leases of some nodes again and again, until it is closed. */
export class Loads {
  known = new Map(); // {load, reaches, at} by the name of a node
  wanted = new Set();
  open = true;

  constructor(onchange) {
    this.tell = framed(() => this.open && onchange());
    this.run();
  }

  /** Says which nodes are looked at now; those that were not are read at once. */
  want(names) {
    const fresh = names.some((name) => !this.wanted.has(name) && !this.known.has(name));
    this.wanted = new Set(names);
    if (fresh) this.hurry?.();
  }

  /** Returns what is known of a node. */
  of(name) {
    return this.known.get(name);
  }

  async run() {
    while (this.open) {
      const names = document.hidden ? [] : [...this.wanted];
      for (let from = 0; from < names.length && this.open; from += AT_ONCE) {
        await Promise.all(names.slice(from, from + AT_ONCE).map((name) => this.read(name)));
      }
      await Promise.race([pause(EVERY_MS), new Promise((resolve) => (this.hurry = resolve))]);
    }
  }

  async read(name) {
    try {
      const { body } = await get(`api/nodes/${part(name)}/load`);
      const before = this.known.get(name);
      if (before && same(before, body)) return;
      this.known.set(name, body);
      this.tell();
    } catch {
      this.known.delete(name); // it is gone, or the agent is: both are told elsewhere
    }
  }

  close() {
    this.open = false;
    this.hurry?.();
  }
}

function same(one, other) {
  const telling = ({ load, reaches }) =>
    JSON.stringify([load && [load.cpu, load.memory, load.gpu, load.stale], reaches]);
  return telling(one) === telling(other);
}
