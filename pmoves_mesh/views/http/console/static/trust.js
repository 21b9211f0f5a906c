// The view of the trust: who speaks with which certificate and for how long, and what was refused.

import { get } from "./api.js";
import { fill, h, say } from "./dom.js";
import { clock, count, exact, identity, span } from "./format.js";
import { validityMark } from "./marks.js";
import { plainTable } from "./table.js";

const EVERY_MS = 5000;

/** Opens the view. */
export function open(place) {
  const parts = Object.fromEntries(
    ["certificates", "roots", "rejected", "revoked", "tokens"].map((name) => [name, h("div")]),
  );
  const summary = h("dl", { class: "totals" });
  const problem = h("p", { class: "problem", role: "alert" });
  place.append(
    h("div", { class: "headed" }, h("h1", { tabindex: -1 }, "Trust"), summary),
    problem,
    h(
      "div",
      { class: "scroller trust", tabindex: 0, role: "region", "aria-label": "Trust, scrolls" },
      section("Certificates", parts.certificates, "wide"),
      section("Rejected events", parts.rejected, "wide"),
      section("CA certificates", parts.roots),
      section("Revocations", parts.revoked),
      section("Join tokens", parts.tokens),
    ),
  );
  let timer = 0;
  let wanted = true;
  let shown = "";

  async function read() {
    try {
      const { body } = await get("api/trust");
      if (!wanted) return;
      say(problem, "");
      draw(body);
    } catch (error) {
      if (wanted) say(problem, error.detail ?? String(error));
    }
    if (wanted) timer = setTimeout(read, EVERY_MS);
  }

  /** Draws what differs; the time that remains is shown to the minute, so little does. */
  function draw(report) {
    const told = JSON.stringify([
      {
        ...report,
        certificates: report.certificates.map((one) => ({ ...one, seconds_left: span(one.seconds_left) })),
      },
    ]);
    if (told === shown) return;
    shown = told;
    fill(summary, totals(report));
    fill(parts.certificates, certificates(report.certificates));
    fill(parts.roots, roots(report));
    fill(parts.rejected, rejected(report));
    fill(parts.revoked, revoked(report));
    fill(parts.tokens, tokens(report));
  }

  read();
  return {
    update() {},
    close() {
      wanted = false;
      clearTimeout(timer);
    },
  };
}

function section(title, body, kind = "") {
  const id = title.toLowerCase().replaceAll(" ", "-");
  return h("section", { "aria-labelledby": id, class: `sheet ${kind}` }, h("h2", { id }, title), body);
}

function totals(report) {
  const refused = Object.values(report.rejected).reduce((sum, one) => sum + one, 0);
  const rows = [
    ["Trust domain", report.mesh, ""],
    ["Certificates", report.certificates.length, ""],
    ["Rejected events", refused, refused ? "bad" : "good"],
    ["Revoked", report.revoked.length, report.revoked.length ? "warn" : ""],
    ["Keeps the CA", report.enrols ? "yes" : "no", ""],
  ];
  return rows.map(([name, value, kind]) =>
    h("div", { class: kind }, h("dt", {}, name), h("dd", {}, String(value))),
  );
}

function certificates(found) {
  const rows = [...found]
    .sort((one, other) => one.seconds_left - other.seconds_left)
    .map((one) => [
      `${one.kind} ${one.name}`,
      validityMark(one),
      h("span", { title: exact(one.not_after) }, clock(one.not_after)),
      h("code", { class: "long-word" }, one.fingerprint),
      h("code", { title: one.root }, one.root.slice(0, 16)),
    ]);
  return plainTable(
    "Certificates",
    ["Identity", "Remaining", "Ends", "Fingerprint (SHA-256)", "Root"],
    rows,
    "No node has announced itself with a certificate.",
  );
}

function rejected(report) {
  const reasons = Object.entries(report.rejected).sort(([, one], [, other]) => other - one);
  const counted = plainTable(
    "Rejected events by reason",
    ["Reason", "Events"],
    reasons.map(([reason, number]) => [reason, number.toLocaleString("en-GB")]),
    "No event was refused since this agent started.",
  );
  const latest = [...report.rejections].reverse();
  if (!latest.length) return counted;
  const names = [...new Set(latest.flatMap(Object.keys))];
  const rows = latest.map((one) => names.map((name) => String(one[name] ?? "")));
  return [
    counted,
    h("h3", {}, "The latest"),
    plainTable("The latest rejections", names.map(titled), rows, ""),
  ];
}

function titled(name) {
  const words = name.replaceAll("_", " ");
  return words[0].toUpperCase() + words.slice(1);
}

function roots(report) {
  const held = report.ca.map((one, place) => [
    h("code", { class: "long-word" }, one),
    place ? "holds" : "issues",
  ]);
  const retired = report.retired.map((one) => ["A retired root", `until position ${one.position}`]);
  return plainTable(
    "CA certificates",
    ["Fingerprint (SHA-256)", "State"],
    [...held, ...retired],
    "No CA is known.",
  );
}

function revoked(report) {
  const named = new Map(report.certificates.map((one) => [one.fingerprint, identity(one.identity)]));
  const rows = report.revoked.map((one) => [
    h("code", { class: "long-word" }, one),
    named.get(one) ?? "not in use",
  ]);
  return plainTable("Revocations", ["Fingerprint (SHA-256)", "Whose"], rows, "No certificate was revoked.");
}

function tokens(report) {
  if (report.tokens_pending === null)
    return h("p", {}, "Tokens are kept where the CA is, and that is another host.");
  return h(
    "p",
    {},
    report.tokens_pending
      ? `${count(report.tokens_pending, "token")} could still be used to join.`
      : "No token is pending.",
  );
}
