// Who reaches whom, drawn: few nodes on a circle, many on a disc, and a line for each way that was tried.

import { fill, h, svg } from "./dom.js";
import { count } from "./format.js";
import { kindOfNode, mark } from "./marks.js";

const WIDTH = 440;
const HEIGHT = 360;
const NAMED_MAX = 14;
const BEND = 26;
const GOLDEN_ANGLE = Math.PI * (3 - Math.sqrt(5));
const DOT_PX = 6;
const SHOWN_MAX = 6;

/** The drawing, and the same in words below it. */
export class Chart {
  constructor() {
    this.lines = svg("g", { class: "ways" });
    this.dots = svg("g", { class: "dots" });
    const head = (kind) =>
      svg(
        "marker",
        {
          id: `head-${kind}`,
          viewBox: "0 0 8 8",
          refX: 7,
          refY: 4,
          markerWidth: 7,
          markerHeight: 7,
          orient: "auto-start-reverse",
          class: kind,
        },
        svg("path", { d: "M0 0 8 4 0 8z" }),
      );
    this.drawing = svg(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", class: "map" },
      svg("defs", {}, head("good"), head("bad")),
      this.lines,
      this.dots,
    );
    this.words = h("div", { class: "ways-told" });
    this.element = h(
      "section",
      { class: "chart", "aria-labelledby": "reach" },
      h("h2", { id: "reach" }, "Who reaches whom"),
      this.drawing,
      this.words,
    );
  }

  /** Draws nodes and the ways between them, if anything of it is new. */
  show(items, own) {
    const ways = items.flatMap(({ node, lease }) =>
      Object.entries(lease?.reaches ?? {}).map(([to, problem]) => ({ from: node.name, to, problem })),
    );
    const boxes = new Map(items.map(({ node }) => [node.name, boxOf(node, items.length)]));
    const telling = JSON.stringify([
      items.map(({ node, instances }) => [node.name, node.status, instances.length]),
      ways,
      own,
    ]);
    if (telling === this.drawn) return;
    this.drawn = telling;
    const places = placed(items);
    fill(
      this.dots,
      items.map((item) => dot(item, places.get(item.node.name), own, items.length)),
    );
    fill(
      this.lines,
      ways
        .filter(({ from, to }) => places.has(from) && places.has(to))
        .map((way) => line(way, places, boxes)),
    );
    this.tell(items, ways);
  }

  tell(items, ways) {
    const broken = ways.filter(({ problem }) => problem);
    const text = ways.length
      ? `${count(ways.length - broken.length, "way")} of ${ways.length} that were tried ${ways.length === 1 ? "is" : "are"} open.`
      : items.length < 2
        ? "There is no other node to be reached."
        : "No way was tried yet, or all nodes announce loopback.";
    const some = items.length > NAMED_MAX && " Ways are read for the nodes that are seen beside.";
    this.drawing.setAttribute("aria-label", `${count(items.length, "node")}. ${text}`);
    const listed = broken
      .slice(0, SHOWN_MAX)
      .map(({ from, to, problem }) => h("li", {}, mark("bad", `${from} does not reach ${to}: ${problem}`)));
    const more = broken.length - listed.length;
    fill(
      this.words,
      h("p", { class: "quiet" }, text, some),
      h("ul", {}, listed, more > 0 && h("li", {}, `and ${more} more`)),
    );
  }
}

/** Returns where each node stands. Many fill a disc as a sunflower's seeds do, so that none hides another. */
function placed(items) {
  const many = items.length > NAMED_MAX;
  const begin = items.length === 2 ? Math.PI : -Math.PI / 2;
  return new Map(
    items.map(({ node }, index) => {
      const angle = begin + index * (many ? GOLDEN_ANGLE : (2 * Math.PI) / items.length);
      const far = many ? Math.sqrt((index + 0.5) / items.length) : Number(items.length > 1);
      const [across, along] = many ? [WIDTH / 2 - 30, HEIGHT / 2 - 12] : [WIDTH / 2 - 72, HEIGHT / 2 - 36];
      return [
        node.name,
        [WIDTH / 2 + far * across * Math.cos(angle), HEIGHT / 2 + far * along * Math.sin(angle)],
      ];
    }),
  );
}

function dot({ node, instances }, [x, y], own, among) {
  const kind = kindOfNode(node);
  const title = svg("title", {}, `${node.name}: ${node.status}, ${count(instances.length, "instance")}`);
  if (among > NAMED_MAX)
    return svg("circle", { class: `dot ${kind}`, cx: x, cy: y, r: among > 100 ? DOT_PX / 2 : DOT_PX }, title);
  const [width, height] = boxOf(node, among);
  const name = node.name.length > 13 ? `${node.name.slice(0, 12)}…` : node.name;
  return svg(
    "g",
    {
      class: `box ${kind}${node.name === own ? " own" : ""}`,
      transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`,
    },
    title,
    svg("rect", { x: -width / 2, y: -height / 2, width, height, rx: 10 }),
    svg("text", { y: -3, class: "name" }, name),
    svg(
      "text",
      { y: 13, class: "more" },
      node.status === "alive" ? count(instances.length, "instance") : node.status,
    ),
  );
}

/** Returns the width and the height of what stands for a node. */
function boxOf(node, among) {
  return among > NAMED_MAX ? [DOT_PX, DOT_PX] : [Math.max(96, Math.min(136, 34 + node.name.length * 8)), 44];
}

/** Returns the way from one node to another, bent, so that the way back is beside it. */
function line({ from, to, problem }, places, boxes) {
  const [[x1, y1], [x2, y2]] = [places.get(from), places.get(to)];
  const length = Math.hypot(x2 - x1, y2 - y1) || 1;
  const [ux, uy] = [(x2 - x1) / length, (y2 - y1) / length];
  const bend = Math.min(BEND, length / 5);
  const [mx, my] = [(x1 + x2) / 2 - uy * bend, (y1 + y2) / 2 + ux * bend];
  const [sx, sy] = edge(x1, y1, mx, my, boxes.get(from));
  const [ex, ey] = edge(x2, y2, mx, my, boxes.get(to));
  const kind = problem ? "bad" : "good";
  const points = [sx, sy, mx, my, ex, ey].map((one) => one.toFixed(1));
  return svg(
    "path",
    {
      class: kind,
      d: `M${points[0]} ${points[1]}Q${points[2]} ${points[3]} ${points[4]} ${points[5]}`,
      "marker-end": boxes.size > NAMED_MAX ? null : `url(#head-${kind})`,
    },
    svg(
      "title",
      {},
      `${from} ${problem ? "does not reach" : "reaches"} ${to}${problem ? `: ${problem}` : ""}`,
    ),
  );
}

/** Returns where a line from the middle of a node's box leaves it. */
function edge(x, y, toX, toY, [width, height]) {
  const [dx, dy] = [toX - x, toY - y];
  const scale = Math.min((width / 2 + 5) / Math.abs(dx || 1e-9), (height / 2 + 5) / Math.abs(dy || 1e-9), 1);
  return [x + dx * scale, y + dy * scale];
}
