// A window on a long list: of thousands of rows only those exist that can be seen, and a few around them.

const MARGIN = 6;

/** Shows rows of one height in a scrolling element.
 *
 * `build(item, index)` returns the element of a row, once for as long as that very item is seen;
 * `host` holds the rows between two spacers, whose heights stand for those that are not there. */
export class Viewport {
  constructor({ scroller, host, above, below, height, build, perRow = () => 1 }) {
    Object.assign(this, { scroller, host, above, below, height, build, perRow });
    this.items = [];
    this.drawn = new Map();
    scroller.addEventListener("scroll", () => this.draw(), { passive: true });
    this.resized = new ResizeObserver(() => this.draw());
    this.resized.observe(scroller);
  }

  /** Shows other items. Those that are the same objects as before keep their elements. */
  show(items) {
    this.items = items;
    this.draw();
  }

  /** Draws what is seen now. */
  draw() {
    const each = Math.max(1, this.perRow());
    const rows = Math.ceil(this.items.length / each);
    const top = this.scroller.scrollTop;
    const first = Math.max(0, Math.min(Math.floor(top / this.height), rows) - MARGIN);
    const last = Math.min(rows, Math.ceil((top + this.scroller.clientHeight) / this.height) + MARGIN);
    this.above.style.height = `${first * this.height}px`;
    this.below.style.height = `${Math.max(0, rows - last) * this.height}px`;
    this.place(first * each, Math.min(last * each, this.items.length));
  }

  /** Puts the elements of some items in their order, and moves none that is in its place. */
  place(from, until) {
    const drawn = new Map();
    const held = this.held();
    let next = this.above.nextSibling;
    for (let index = from; index < until; index += 1) {
      const item = this.items[index];
      const known = this.drawn.get(item);
      const element = known?.index === index ? known.element : this.build(item, index);
      drawn.set(item, { element, index });
      if (element === next) next = next.nextSibling;
      else this.host.insertBefore(element, next);
    }
    while (next && next !== this.below) {
      const gone = next;
      next = next.nextSibling;
      gone.remove();
    }
    this.drawn = drawn;
    if (held && !this.host.contains(document.activeElement)) this.focus(held.key, held.text);
  }

  /** Draws all rows anew, though their items are the same. */
  redraw() {
    this.drawn = new Map();
    this.draw();
  }

  /** Returns which control has the focus: the key of its row, and what it says. */
  held() {
    const active = document.activeElement;
    const row = this.host.contains(active) ? active.closest("[data-key]") : null;
    return row && { key: row.dataset.key, text: active.textContent };
  }

  /** Gives the focus to the row of a key, or to a control in it, or to the list if it is not there. */
  focus(key, text = null) {
    const row = [...this.host.querySelectorAll("[data-key]")].find((one) => one.dataset.key === key);
    const control = row && [...row.querySelectorAll("a, button")].find((one) => one.textContent === text);
    (control ?? row ?? this.scroller).focus({ preventScroll: true });
  }

  /** Scrolls until an item is seen. */
  reveal(index) {
    const row = Math.floor(index / Math.max(1, this.perRow()));
    const top = row * this.height;
    const { scrollTop, clientHeight } = this.scroller;
    const head = this.scroller.querySelector("thead")?.offsetHeight ?? 0;
    if (top < scrollTop) this.scroller.scrollTop = top;
    else if (top + this.height + head > scrollTop + clientHeight) {
      this.scroller.scrollTop = top + this.height + head - clientHeight;
    }
    this.draw();
  }

  /** Ends it. */
  close() {
    this.resized.disconnect();
  }
}
