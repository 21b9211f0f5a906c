// The view of the stream: every event as it comes, the registry at any moment, and what differs between two.

import { Difference } from "./difference.js";
import { choice, h, offer, say, settled, typed } from "./dom.js";
import { EventPanel, kindOfEvent } from "./eventpanel.js";
import { Feed } from "./feed.js";
import { clock, count, exact, kind } from "./format.js";
import { signatureMark } from "./marks.js";
import { Moment } from "./moment.js";
import { told } from "./record.js";
import { keep } from "./routes.js";
import { COLUMNS } from "./services.js";
import { keyOf, store } from "./store.js";
import { Table } from "./table.js";
import { Tabs } from "./tabs.js";

const ROW_PX = 37;
const NEAR_END_ROWS = 40;
const FIELDS = ["subject", "type", "node", "service", "id"];
const SUBJECTS = [
  ["", "all"],
  ["service.registry.>", "services"],
  ["mesh.node.>", "nodes"],
  ["mesh.trust.>", "trust"],
];
const COLUMNS_OF_EVENTS = [
  { name: "Position", width: 10, cell: (event) => String(event.position) },
  {
    name: "Time",
    width: 12,
    cell: (event) => h("time", { datetime: event.time, title: exact(event.time) }, clock(event.time)),
  },
  { name: "Type", width: 17, cell: (event) => h("span", { title: event.subject }, kind(event.subject)) },
  { name: "Node", width: 12, minor: true, cell: (event) => event.node },
  { name: "Service", width: 13, cell: (event) => event.service },
  { name: "Told", width: 22, cell: told },
  { name: "Signature", width: 14, cell: (event) => signatureMark(event.verified, event.refused) },
];

/** Opens the view; the query of the address says what is filtered, and which event is open. */
export function open(place, query) {
  const wanted = { ...Object.fromEntries(FIELDS.map((name) => [name, ""])), ...query };
  const found = h("p", { class: "found", role: "status" });
  const problem = h("p", { class: "problem", role: "alert" });
  const moment = new Moment(moved);
  const panel = new EventPanel(
    (position) => moment.go(position),
    () => show(null),
  );
  const events = new Table({
    label: "Events",
    columns: COLUMNS_OF_EVENTS,
    keyOf: (event) => String(event.position),
    open: show,
    kind: kindOfEvent,
    empty: "No event matches.",
  });
  const then = new Table({
    label: "Instances at that moment",
    columns: COLUMNS,
    keyOf,
    open: (one) => (location.hash = `#/services?open=${encodeURIComponent(keyOf(one))}`),
  });
  const difference = new Difference();
  const subject = choice("Subject", SUBJECTS, (value) => ask({ subject: value }), wanted.subject);
  const type = choice("Type", [["", "any"]], (value) => ask({ type: value }), wanted.type);
  const later = settled(ask, 250);
  const texts = ["node", "service", "id"].map((name) => {
    const label = name[0].toUpperCase() + name.slice(1);
    const take = (text) => {
      wanted[name] = text.trim();
      later();
    };
    return typed(label, take, { value: wanted[name], list: `known-${name}` });
  });
  const known = {
    node: h("datalist", { id: "known-node" }),
    service: h("datalist", { id: "known-service" }),
  };
  const types = new Set();
  const remember = settled(() => keep("timeline", wanted), 250);
  const tabs = new Tabs([
    [
      "Events",
      h(
        "div",
        { class: "fills" },
        h(
          "div",
          { class: "filters", role: "search", "aria-label": "Filter" },
          subject.element,
          type.element,
          texts.map((one) => one.element),
          Object.values(known),
        ),
        problem,
        h("div", { class: "split" }, h("div", { class: "fills" }, events.element), panel.element),
      ),
    ],
    ["Registry then", h("div", { class: "fills" }, then.element)],
    ["Difference", difference.element],
  ]);
  place.append(
    h("div", { class: "headed" }, h("h1", { tabindex: -1 }, "Timeline"), found),
    moment.element,
    tabs.element,
  );
  let feed = null;
  events.element.addEventListener("scroll", reach, { passive: true });

  /** Asks for other events. */
  function ask(some = {}) {
    Object.assign(wanted, some);
    feed?.close();
    const { node, service, id } = wanted;
    feed = new Feed({ subject: wanted.type || wanted.subject, node, service, id }, draw);
    remember();
  }

  /** Offers the names that are known now to whoever filters. */
  function suggest() {
    const services = new Set([...store.now.instances.values()].map((one) => one.name));
    offer(known.node, pairs([...store.now.nodes.keys()].sort()));
    offer(known.service, pairs([...services].sort()));
  }

  function draw() {
    for (const event of feed.events) types.add(event.subject);
    offer(type.select, [["", "any"], ...[...types].sort().map((one) => [one, kind(one)])]);
    // Whoever reads further down goes on reading the same rows.
    if (feed.added && events.element.scrollTop > 0) events.element.scrollTop += feed.added * ROW_PX;
    feed.added = 0;
    events.show(feed.events);
    moment.update(feed);
    suggest();
    say(problem, feed.problem);
    say(
      found,
      `${count(feed.events.length, "event")}${feed.more ? " so far, more below" : ""} · ${feed.live ? "live" : "not live"}`,
    );
    if (wanted.open && !panel.event) openAt(Number(wanted.open));
    reach();
  }

  function reach() {
    const { scrollTop, clientHeight, scrollHeight } = events.element;
    if (clientHeight && scrollHeight - scrollTop - clientHeight < NEAR_END_ROWS * ROW_PX) feed.older();
  }

  async function openAt(position) {
    wanted.open = "";
    const event = await feed.at(position);
    if (event) show(event);
  }

  /** Opens an event beside the list, or closes what is open and goes back to its row. */
  function show(event) {
    const before = panel.event;
    wanted.open = event ? String(event.position) : "";
    events.select(wanted.open);
    panel.show(event);
    if (event) panel.focus();
    else if (before) events.view.focus(String(before.position));
    remember();
  }

  /** Follows the slider: the last event until then is marked. */
  function moved() {
    const at = store.moment?.position;
    const index = at === undefined ? 0 : feed.events.findIndex((event) => event.position <= at);
    if (!panel.event) events.select(at === undefined ? "" : String(feed.events[index]?.position));
    // The banner that tells of the past takes its place first.
    if (index >= 0) requestAnimationFrame(() => events.view.reveal(index));
  }

  ask();
  return {
    update() {
      then.show(store.shown.sorted());
      moment.describe();
    },
    close() {
      later.cancel();
      for (const one of [feed, moment, events, then, difference]) one.close();
    },
  };
}

function pairs(names) {
  return names.map((name) => [name, name]);
}
