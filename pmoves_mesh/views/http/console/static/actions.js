// What the page can change, as whoever sits before it: each is confirmed first, and what the agent says is shown.

import { Problem, hasToken, part, useToken, write } from "./api.js";
import { announce, h } from "./dom.js";
import { store } from "./store.js";

/** Asks whether an instance is to be hidden from discovery, or shown again. */
function maintain(instance, on) {
  const name = `${instance.name} (${instance.id})`;
  ask({
    title: on ? `Put ${name} into maintenance?` : `End the maintenance of ${name}?`,
    text: on
      ? "Discovery leaves it out until maintenance ends. It stays in the registry, and its checks go on."
      : "Discovery shows it again.",
    confirm: on ? "Begin maintenance" : "End maintenance",
    reason: on,
    run: (reason) =>
      write("PUT", `api/services/${part(instance.name)}/maintenance`, { id: instance.id }, { on, reason }),
    done: on ? `${name} is in maintenance.` : `The maintenance of ${name} has ended.`,
  });
}

/** Asks whether a whole node is to be hidden from discovery, or shown again. */
export function maintainNode(node, on) {
  ask({
    title: on ? `Put all of node ${node} into maintenance?` : `End the maintenance of node ${node}?`,
    text: on
      ? "Discovery leaves out every service of this node, also those that it registers meanwhile."
      : "Discovery shows its services again.",
    confirm: on ? "Begin maintenance" : "End maintenance",
    reason: on,
    run: (reason) => write("PUT", `api/nodes/${part(node)}/maintenance`, {}, { on, reason }),
    done: on ? `Node ${node} is in maintenance.` : `The maintenance of node ${node} has ended.`,
  });
}

/** Asks whether an instance is to leave the registry. */
function deregister(instance) {
  const name = `${instance.name} (${instance.id})`;
  ask({
    title: `Deregister ${name}?`,
    text: `Every host of the mesh forgets this instance on node ${instance.node}. The service itself goes on running, and may register again.`,
    confirm: "Deregister",
    destroys: true,
    run: () =>
      write("DELETE", `api/services/${part(instance.name)}`, { node: instance.node, id: instance.id }),
    done: `${name} is deregistered.`,
  });
}

/** Opens a dialog, and does what it asks for once that is confirmed. A token is asked for where one is needed. */
function ask({ title, text, confirm, run, done, reason = false, destroys = false }) {
  const why = reason && h("input", { type: "text", maxlength: 1024, autocomplete: "off" });
  const token = h("input", { type: "password", autocomplete: "off", spellcheck: "false" });
  const wanted = h(
    "label",
    { class: "field", hidden: true },
    h("span", {}, "Token (SERVICE_REGISTRY_TOKEN of this agent; kept until the page is closed)"),
    token,
  );
  const problem = h("p", { class: "problem", role: "alert" });
  const cancel = h("button", { type: "button", onclick: () => dialog.close() }, "Cancel");
  const sure = h("button", { type: "submit", class: destroys ? "destroys" : "main" }, confirm);
  const form = h(
    "form",
    { onsubmit: submit },
    h("h2", { id: "asked" }, title),
    h("p", {}, text),
    why && h("label", { class: "field" }, h("span", {}, "Reason, for whoever lists the registry"), why),
    wanted,
    problem,
    h("p", { class: "buttons" }, cancel, sure),
  );
  const dialog = h("dialog", { "aria-labelledby": "asked", onclose: gone }, form);

  /** Removes the dialog; where what opened it has gone too, the focus goes to the top of the view. */
  function gone() {
    dialog.remove();
    if (document.activeElement === document.body) document.querySelector("main h1").focus();
  }

  async function submit(event) {
    event.preventDefault();
    if (!wanted.hidden) useToken(token.value);
    sure.disabled = true;
    problem.textContent = "";
    try {
      await run(why ? why.value : "");
      dialog.close();
      announce(done);
    } catch (error) {
      refuse(error);
    }
    sure.disabled = false;
  }

  function refuse(error) {
    problem.textContent = error instanceof Problem ? error.detail : String(error);
    if (error.status !== 401) return;
    if (hasToken()) useToken("");
    wanted.hidden = false;
    token.focus();
    token.select();
  }

  document.body.append(dialog);
  dialog.showModal();
  (destroys ? cancel : why || sure).focus();
}

/** Returns the buttons for an instance: only its own node changes it, whichever agent is asked. */
export function buttonsFor(instance) {
  if (store.past) return h("p", { class: "quiet" }, "This is the past, which nobody changes.");
  if (instance.node !== store.own) {
    return h(
      "p",
      { class: "quiet" },
      `Only node ${instance.node} changes this instance: open the console of its agent.`,
    );
  }
  return h(
    "p",
    { class: "buttons" },
    h(
      "button",
      { type: "button", onclick: () => maintain(instance, !instance.maintenance) },
      instance.maintenance ? "End maintenance" : "Maintenance…",
    ),
    h("button", { type: "button", class: "destroys", onclick: () => deregister(instance) }, "Deregister…"),
  );
}
