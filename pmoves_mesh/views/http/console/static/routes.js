// Which view the address names, and what is asked of it: `#/services?node=jetson`.

/** Returns the name of the view and its query. */
export function current() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  return { name: path || "mesh", query: Object.fromEntries(new URLSearchParams(query)) };
}

/** Puts what a view is asked for into the address, without opening the view again. */
export function keep(name, query) {
  const asked = new URLSearchParams(Object.entries(query).filter(([, value]) => value));
  const text = asked.toString();
  if (current().name === name) history.replaceState(null, "", `#/${name}${text ? `?${text}` : ""}`);
}
