// One event in full: where it stands, who signed it, and what it says.

import { fill, h } from "./dom.js";
import { exact, kind, size } from "./format.js";
import { signatureMark } from "./marks.js";
import { facts } from "./table.js";

const ENDS = /deregistered|unregistered|expired|evicted|lost|leave|left|revoked/;
const TEXT_MAX = 20_000;

/** Returns the kind of the mark for an event: how what it tells is. */
export function kindOfEvent(event) {
  if (event.refused) return "bad";
  const health = event.data?.data?.health_status;
  if (ENDS.test(event.subject)) return "bad";
  if (health === "unhealthy") return "bad";
  return event.data?.data?.maintenance ? "warn" : "";
}

/** A panel that shows one event; `onlook` is asked to show the registry as that event left it. */
export class EventPanel {
  event = null;

  constructor(onlook, onclose) {
    this.title = h("h2", { tabindex: -1 });
    this.body = h("div");
    const close = h(
      "button",
      { type: "button", class: "close", "aria-label": "Close this event", onclick: onclose },
      "✕",
    );
    const look = h(
      "button",
      { type: "button", class: "main", onclick: () => onlook(this.event.position) },
      "Show the registry at this event",
    );
    this.element = h(
      "aside",
      { class: "panel", hidden: true, "aria-label": "Event" },
      h("header", {}, this.title, close),
      h("p", { class: "buttons" }, look),
      this.body,
    );
    this.element.addEventListener("keydown", (event) => event.key === "Escape" && onclose());
  }

  /** Shows an event, or nothing. */
  show(event) {
    this.event = event;
    this.element.hidden = !event;
    if (!event) return;
    fill(this.title, kind(event.subject));
    const text = event.data === null ? "It is not JSON." : JSON.stringify(event.data, null, 2);
    fill(
      this.body,
      facts([
        ["Position", String(event.position)],
        ["Time", exact(event.time)],
        ["Subject", h("code", {}, event.subject)],
        ["Node", event.node],
        ["Service", event.service],
        ["Id", event.id && h("code", {}, event.id)],
        ["Stamp", `incarnation ${event.incarnation}, revision ${event.revision}`],
        ["Size", size(event.size)],
      ]),
      h("h3", {}, "Signature"),
      facts([
        ["Signed", signatureMark(event.verified, event.refused)],
        ["By", event.signer && h("code", {}, event.signer)],
        ["Certificate", event.fingerprint && h("code", { class: "long-word" }, event.fingerprint)],
      ]),
      h("h3", {}, "Payload"),
      h(
        "pre",
        { tabindex: 0, "aria-label": "Payload" },
        text.length > TEXT_MAX ? `${text.slice(0, TEXT_MAX)}\n…` : text,
      ),
    );
  }

  focus() {
    this.title.focus();
  }
}
