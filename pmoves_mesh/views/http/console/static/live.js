// Following the mesh: instances by the watch, nodes by asking until they change, and how the agent is.
//
// A tab that nobody sees holds no connection: a browser makes six to a host, for all of its tabs.

import { get } from "./api.js";
import { store } from "./store.js";

const PULSE_MS = 1000;
const AGAIN_MS = 1000;
const FACTS_MS = 60_000;
const POLL = "2m";

/** Begins to follow everything, for as long as the page is open. */
export function follow() {
  watch();
  nodes();
  pulse();
  facts();
}

/** Follows a stream of server-sent events: `handlers` are called with what each event says and its position.
 * `pathAfter` gives its path for one who was told up to a position. Returns what ends it. */
export function stream(pathAfter, handlers, onstate = () => {}) {
  let source = null;
  let timer = 0;
  let last = "";
  function open() {
    clearTimeout(timer);
    source?.close();
    if (document.hidden) return;
    source = new EventSource(pathAfter(last));
    source.onopen = () => onstate(true);
    source.onerror = () => {
      onstate(false);
      // One that was refused does not come back by itself.
      if (source.readyState === EventSource.CLOSED) timer = setTimeout(open, AGAIN_MS);
    };
    for (const [name, handle] of Object.entries(handlers)) {
      source.addEventListener(name, (event) => {
        last = event.lastEventId;
        handle(JSON.parse(event.data), Number(last));
      });
    }
  }
  open();
  document.addEventListener("visibilitychange", open);
  return () => {
    document.removeEventListener("visibilitychange", open);
    clearTimeout(timer);
    source?.close();
  };
}

function watch() {
  const at = (take) => (data, position) => {
    take(data);
    store.note({ position: Math.max(position, store.state.position) });
  };
  stream(
    () => "api/watch",
    {
      snapshot: at((data) => store.replace(data.services)),
      added: at((data) => store.put(data)),
      changed: at((data) => store.put(data)),
      removed: at((data) => store.remove(data)),
    },
    (watching) => store.note({ watching }),
  );
}

/** Keeps the nodes: the agent answers when they have changed. */
async function nodes() {
  let asking = new AbortController();
  document.addEventListener("visibilitychange", () => document.hidden && asking.abort());
  for (let index = ""; ; await seen()) {
    try {
      asking = new AbortController();
      const { body, headers } = await get("api/nodes", index ? { index, wait: POLL } : {}, asking.signal);
      index = headers.get("X-Mesh-Index") ?? "";
      store.replaceNodes(body.nodes);
    } catch {
      index = "";
      await pause(AGAIN_MS);
    }
  }
}

/** Asks every second whether the agent is there, and how old what it says is. */
async function pulse() {
  for (;;) {
    await seen();
    const before = store.state;
    try {
      const { headers } = await get("healthz", {}, AbortSignal.timeout(5 * PULSE_MS));
      store.note({
        answering: true,
        stale: headers.get("X-Mesh-Stale"),
        position: Number(headers.get("X-Mesh-Position") ?? 0),
      });
    } catch {
      store.note({ answering: false });
    }
    const { answering, stale } = store.state;
    if (answering && (!before.answering || (before.stale === null) !== (stale === null))) facts.again?.();
    await pause(PULSE_MS);
  }
}

/** Asks now and then, and whenever it becomes stale, what the agent says of itself. */
async function facts() {
  for (;;) {
    try {
      const { body } = await get("api/status");
      store.facts = body.registry;
      store.own = body.registry.hostname;
      store.tell();
    } catch {
      // The pulse tells that it does not answer.
    }
    await Promise.race([pause(FACTS_MS), new Promise((resolve) => (facts.again = resolve))]);
  }
}

/** Waits until the page is seen. */
function seen() {
  if (!document.hidden) return undefined;
  return new Promise((resolve) =>
    document.addEventListener("visibilitychange", resolve, { once: true }),
  ).then(seen);
}

/** Waits. */
export function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
