// One instance in full: its record, its history, and who signed it by which certificate.

import { buttonsFor } from "./actions.js";
import { get } from "./api.js";
import { fill, h } from "./dom.js";
import { address, ago, clock, count, exact, identity, kind, span } from "./format.js";
import { instanceMark, mark, signatureMark, tags, validityMark } from "./marks.js";
import { store } from "./store.js";
import { facts, plainTable } from "./table.js";

const EVENTS_MAX = 50;

/** A panel that shows one instance, as long as it is there. */
export class Record {
  constructor(onclose) {
    this.onclose = onclose;
    this.title = h("h2", { tabindex: -1 });
    this.status = h("span");
    this.body = h("div");
    this.signed = h("div");
    this.past = h("div");
    const close = h(
      "button",
      { type: "button", class: "close", "aria-label": "Close this instance", onclick: onclose },
      "✕",
    );
    this.element = h(
      "aside",
      { class: "panel", hidden: true, "aria-label": "Instance" },
      h("header", {}, this.title, this.status, close),
      this.body,
      h("h3", {}, "Signature"),
      this.signed,
      h("h3", {}, "History"),
      this.past,
    );
    this.element.addEventListener("keydown", (event) => event.key === "Escape" && onclose());
  }

  /** Shows an instance; nothing without a key. One that went while it was shown says so. */
  show(instance, key) {
    this.element.hidden = !key;
    const context = `${store.own} ${Boolean(store.past)}`;
    if (!key || (instance === this.instance && key === this.key && context === this.context)) {
      if (!key) this.instance = this.key = undefined;
      return;
    }
    const other = key !== this.key;
    Object.assign(this, { instance, key, context });
    const held = this.body.contains(document.activeElement);
    fill(this.title, instance?.name ?? key.split("/")[0]);
    fill(this.status, instance ? instanceMark(instance) : mark("bad", "not in the registry"));
    fill(
      this.body,
      instance
        ? described(instance)
        : h("p", { class: "quiet" }, "It was deregistered, or its node is gone. What happened stands below."),
    );
    if (held) this.focus();
    if (other) {
      fill(this.signed, h("p", { class: "quiet" }, "…"));
      fill(this.past, h("p", { class: "quiet" }, "…"));
    }
    this.read(instance, key);
  }

  focus() {
    this.title.focus();
  }

  /** Reads the events of the instance, and the certificates of the mesh. */
  async read(instance, key) {
    this.reading?.abort();
    this.reading = new AbortController();
    const { signal } = this.reading;
    const [service, node, ...id] = key.split("/");
    const asked = { service, node, id: id.join("/"), order: "desc", limit: EVENTS_MAX };
    const [events, trust] = await Promise.allSettled([
      get("api/events", asked, signal),
      get("api/trust", {}, signal),
    ]);
    if (signal.aborted) return;
    const known = events.value?.body.events;
    fill(
      this.past,
      known ? history(known) : h("p", { class: "problem" }, events.reason.detail ?? String(events.reason)),
    );
    fill(this.signed, signature(instance, known ?? [], trust.value?.body.certificates ?? []));
  }

  close() {
    this.reading?.abort();
  }
}

function described(one) {
  return [
    facts([
      ["Address", h("code", {}, address(one.host, one.port))],
      [
        "Further ports",
        Object.entries(one.ports)
          .map(([name, port]) => `${name} ${port}`)
          .join(", "),
      ],
      ["Node", h("a", { href: `#/services?node=${encodeURIComponent(one.node)}` }, one.node)],
      ["Id", h("code", {}, one.id)],
      ["Mode", one.mode],
      ["Capabilities", tags(one.capabilities, "Capabilities")],
      ["Health", one.health_output || one.health_status],
      ["Checked at", one.health_url && h("code", {}, one.health_url)],
      ["Maintenance", one.maintenance && (one.maintenance_reason || "yes, no reason given")],
      ["Registered", exact(one.registered_at)],
      ["Last seen", `${clock(one.last_seen)} (${ago(one.last_seen)})`],
      ["Leaves", `${span(one.deregister_after)} after its node is lost`],
      ["Stands at", `position ${one.position}, revision ${one.revision}`],
    ]),
    Object.keys(one.metadata).length > 0 && [h("h3", {}, "Metadata"), metadata(one.metadata)],
    buttonsFor(one),
  ];
}

/** Returns metadata as it is, whatever is in it: as text. */
function metadata(values) {
  return facts(
    Object.entries(values).map(([name, value]) => [
      name,
      typeof value === "string" ? value || "(empty)" : h("code", {}, JSON.stringify(value)),
    ]),
  );
}

function signature(instance, events, certificates) {
  if (!instance) return h("p", { class: "quiet" }, "Nothing of it is in the registry now.");
  const event = events.find((one) => one.position === instance.position);
  const known = certificates.find((one) =>
    event?.fingerprint ? one.fingerprint === event.fingerprint : one.identity === instance.signer,
  );
  const fingerprint = event?.fingerprint || known?.fingerprint;
  return facts([
    ["Signed", signatureMark(instance.verified)],
    ["By", instance.signer && h("code", {}, instance.signer)],
    ["Certificate", fingerprint && h("code", { class: "long-word" }, fingerprint)],
    ["Valid", known && [validityMark(known), ` until ${clock(known.not_after)}`]],
    [
      "Event",
      event &&
        h(
          "a",
          { href: `#/timeline?open=${event.position}&service=${encodeURIComponent(instance.name)}` },
          `position ${event.position}`,
        ),
    ],
  ]);
}

function history(events) {
  const rows = events.map((event) => [
    h("a", { href: `#/timeline?open=${event.position}`, title: exact(event.time) }, clock(event.time)),
    kind(event.subject),
    told(event),
    signatureMark(event.verified, event.refused),
  ]);
  const all =
    events.length === EVENTS_MAX && h("p", { class: "quiet" }, `The latest ${count(EVENTS_MAX, "event")}.`);
  return [
    plainTable(
      "Events of this instance",
      ["When", "What", "Told", "Signature"],
      rows,
      "The stream has no event of it any more.",
    ),
    all,
  ];
}

/** Returns what an event says of the instance's health. */
export function told(event) {
  const record = event.data?.data ?? {};
  const said = [record.health_status, record.health_output]
    .filter((one) => typeof one === "string" && one)
    .join(": ");
  return said || (event.signer ? `by ${identity(event.signer)}` : "");
}
