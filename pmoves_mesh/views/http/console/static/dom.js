// Elements, and the one rule of this page: what others wrote becomes text, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** Returns an element. What is null or false among the children is left out; text becomes a text node.
 * Properties that begin with "on" listen; "dataset" and "class" are what HTML calls them. */
export function h(name, properties = {}, ...children) {
  return filled(document.createElement(name), properties, children);
}

/** As h, for drawings. */
export function svg(name, properties = {}, ...children) {
  return filled(document.createElementNS(SVG, name), properties, children);
}

function filled(element, properties, children) {
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...kept(children));
  return element;
}

/** Puts other children in the place of those that an element has. */
export function fill(element, ...children) {
  element.replaceChildren(...kept(children));
  return element;
}

function kept(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}

/** Changes an element's text only where it differs, so that a screen reader is not told twice. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Tells whoever listens to the page what has happened. */
export function announce(text) {
  say(document.getElementById("said"), text);
}

/** Returns a function that runs another once, a moment after it was last called; `cancel` takes that back. */
export function settled(run, afterMs) {
  let timer = 0;
  const later = (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => run(...given), afterMs);
  };
  later.cancel = () => clearTimeout(timer);
  return later;
}

/** Returns a function that runs another before the next frame, however often it is called until then.
 * A page in the background gets no frames, and need not be drawn. */
export function framed(run) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      run();
    });
  };
}

/** Returns a select with a label above it; the options are [value, text]. */
export function choice(label, options, onchange, value = "") {
  const select = h("select", { onchange: () => onchange(select.value) });
  offer(select, options, value);
  return { element: h("label", { class: "field" }, h("span", {}, label), select), select };
}

/** Gives a select other options, and leaves what is chosen if that is still among them. */
export function offer(select, options, value = select.value) {
  const offered = options.map(([key, text]) => h("option", { value: key }, text));
  if (value && !options.some(([key]) => key === value)) offered.push(h("option", { value }, value));
  fill(select, offered);
  select.value = value;
}

/** Returns a text field with a label above it. */
export function typed(label, oninput, properties = {}) {
  const input = h("input", { type: "search", autocomplete: "off", spellcheck: "false", ...properties });
  input.addEventListener("input", () => oninput(input.value));
  return { element: h("label", { class: "field" }, h("span", {}, label), input), input };
}
