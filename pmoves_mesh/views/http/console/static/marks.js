// Marks: a shape, a colour and a word for how something is, so that none of them need be told alone.

import { h } from "./dom.js";
import { span } from "./format.js";

const SHAPES = { good: "●", bad: "▲", warn: "◆", idle: "○", past: "◷" };
const HEALTH = { healthy: "good", unhealthy: "bad", unknown: "idle" };
const HOUR_S = 3600;
const LIFE = { alive: "good", left: "idle", lost: "bad" };

/** Returns a mark of a kind: good, bad, warn, idle or past. */
export function mark(kind, text, title = null) {
  return h(
    "span",
    { class: `mark ${kind}`, title },
    h("span", { "aria-hidden": "true" }, SHAPES[kind]),
    ` ${text}`,
  );
}

/** Makes a mark of an element that stays in its place. */
export function remark(element, kind, text) {
  const className = `mark ${kind}`;
  if (element.className === className && element.lastChild?.textContent === ` ${text}`) return;
  element.className = className;
  element.replaceChildren(h("span", { "aria-hidden": "true" }, SHAPES[kind]), ` ${text}`);
}

/** Returns how an instance fares, what its node has to do with it first. */
export function condition(instance) {
  if (instance.node_status !== "alive") return `node ${instance.node_status}`;
  return instance.maintenance ? "maintenance" : instance.health_status;
}

/** Returns the kind of the mark for an instance. */
export function kindOf(instance) {
  if (instance.node_status !== "alive") return LIFE[instance.node_status] ?? "idle";
  return instance.maintenance ? "warn" : (HEALTH[instance.health_status] ?? "idle");
}

/** Returns the mark of an instance. */
export function instanceMark(instance) {
  return mark(
    kindOf(instance),
    condition(instance),
    instance.maintenance_reason || instance.health_output || null,
  );
}

/** Returns the kind of the mark for a node. */
export function kindOfNode(node) {
  return LIFE[node.status] ?? "idle";
}

/** Returns the mark of a node. */
export function nodeMark(node) {
  return mark(kindOfNode(node), node.status);
}

/** Returns whether a signature was verified, as a mark. */
export function signatureMark(verified, refused = "") {
  if (refused) return mark("bad", `refused: ${refused}`);
  return verified ? mark("good", "verified") : mark("warn", "unsigned");
}

/** Returns how long a certificate is good for, as a mark. */
export function validityMark({ revoked, seconds_left: left }) {
  if (revoked) return mark("bad", "revoked");
  if (left <= 0) return mark("bad", `ended ${span(-left)} ago`);
  return mark(left < HOUR_S ? "bad" : left < 6 * HOUR_S ? "warn" : "good", `${span(left)} left`);
}

/** Returns short words one after the other. */
export function tags(words, name) {
  return words.length
    ? h(
        "ul",
        { class: "tags", "aria-label": name },
        words.map((word) => h("li", {}, word)),
      )
    : null;
}

/** Returns a share as a bar with its number beside it. */
export function meter(name, share) {
  const bar = h("meter", { min: 0, max: 1, high: 0.85, value: share, "aria-label": name });
  return h(
    "span",
    { class: "load" },
    h("span", {}, name),
    bar,
    h("span", {}, `${Math.round(share * 100)} %`),
  );
}
