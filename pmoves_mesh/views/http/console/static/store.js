// What is known: the instances and nodes as they are now, and as they were at a moment that is looked at.
//
// Records are never changed, only exchanged, so a view sees by identity what is new. However many
// changes come at once, whoever listens is told once before the next frame.

import { framed } from "./dom.js";
import { condition } from "./marks.js";

/** Returns the key of an instance in the whole mesh. */
export function keyOf(instance) {
  return `${instance.name}/${instance.node}/${instance.id}`;
}

class Picture {
  instances = new Map();
  nodes = new Map();

  /** Returns the instances in the order of their names. */
  sorted() {
    this.order ??= [...this.instances.values()].sort(byKey);
    return this.order;
  }

  /** Returns the instances of each node, by its name. */
  byNode() {
    if (!this.grouped) {
      this.grouped = new Map();
      for (const one of this.sorted()) {
        if (!this.grouped.has(one.node)) this.grouped.set(one.node, []);
        this.grouped.get(one.node).push(one);
      }
    }
    return this.grouped;
  }

  changed() {
    this.order = this.grouped = undefined;
  }
}

function byKey(one, other) {
  return compare(one.name, other.name) || compare(one.node, other.node) || compare(one.id, other.id);
}

function compare(one, other) {
  return one < other ? -1 : one > other ? 1 : 0;
}

class Store {
  now = new Picture();
  past = null;
  moment = null; // {position, time} of the past that is shown
  facts = {}; // the `registry` object of the status
  own = ""; // this agent's node
  state = { position: 0, stale: null, watching: false, answering: true };
  news = []; // what a screen reader is told, until it is
  listeners = new Set();
  tell = framed(() => this.listeners.forEach((listener) => listener()));

  /** What the views show: how it is, or how it was. */
  get shown() {
    return this.past ?? this.now;
  }

  /** Calls a listener before the frame after each change; returns what ends that. */
  listen(listener) {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** Takes up everything anew. */
  replace(instances) {
    this.now.instances = new Map(instances.map((one) => [keyOf(one), one]));
    this.touch(this.now);
  }

  put(instance) {
    const key = keyOf(instance);
    const before = this.now.instances.get(key);
    const how = condition(instance);
    if (!before || condition(before) !== how)
      this.news.push(`${instance.name} on ${instance.node} is ${how}.`);
    this.now.instances.set(key, instance);
    this.touch(this.now);
  }

  remove(key) {
    this.news.push(`${key.name} on ${key.node} has gone.`);
    this.now.instances.delete(keyOf(key));
    this.touch(this.now);
  }

  replaceNodes(nodes) {
    this.now.nodes = named(nodes);
    this.touch(this.now);
  }

  /** Shows how it was; `at` says when that was. */
  showPast(instances, nodes, at) {
    const past = new Picture();
    past.instances = new Map(instances.map((one) => [keyOf(one), one]));
    past.nodes = named(nodes);
    this.past = past;
    this.moment = at;
    this.tell();
  }

  /** Shows how it is again. */
  showNow() {
    this.past = this.moment = null;
    this.tell();
  }

  /** Takes note of how this agent and the watch are doing. */
  note(change) {
    if (Object.entries(change).every(([key, value]) => this.state[key] === value)) return;
    this.state = { ...this.state, ...change };
    this.tell();
  }

  touch(picture) {
    picture.changed();
    this.tell();
  }
}

function named(nodes) {
  return new Map(nodes.map((node) => [node.name, node]));
}

/** The one store of the page. */
export const store = new Store();
