"use strict";
// Plots as SVG, drawn at the width they have, so that their type keeps its size. Data goes in as text only.
const NllPlots = (() => {
  const NS = "http://www.w3.org/2000/svg";
  let serial = 0;

  const node = (parent, name, attributes = {}, text) => {
    const el = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) el.setAttribute(key, value);
    if (text !== undefined) el.textContent = text;
    parent.append(el);
    return el;
  };

  const { short } = Nll;

  const ticks = (low, high, about) => {
    const raw = (high - low) / about || 1;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = power * [1, 2, 5, 10].find((m) => m * power >= raw);
    const out = [];
    for (let v = Math.ceil(low / step - 1e-9); v <= high / step + 1e-9; v++) {
      out.push(Number((v * step).toPrecision(12)));
    }
    return out;
  };

  const frame = (box, { height, left, right = 14, top = 12, bottom = 44, title, desc, x, y, xAbout, yAbout }) => {
    const width = Math.max(box.clientWidth, 240);
    const id = `plot-${++serial}`;
    const svg = document.createElementNS(NS, "svg");
    for (const [k, v] of [["role", "img"], ["viewBox", `0 0 ${width} ${height}`], ["height", height],
      ["width", width], ["aria-labelledby", `${id}-t ${id}-d`]]) svg.setAttribute(k, v);
    node(svg, "title", { id: `${id}-t` }, title);
    node(svg, "desc", { id: `${id}-d` }, desc);
    const w = width - left - right;
    const h = height - top - bottom;
    const sx = (v) => left + (w * (v - x.low)) / (x.high - x.low || 1);
    const sy = (v) => top + h - (h * (v - y.low)) / (y.high - y.low || 1);
    for (const v of ticks(x.low, x.high, xAbout ?? Math.max(3, w / 80))) {
      if (x.whole && !Number.isInteger(v)) continue;
      node(svg, "line", { class: "tick", x1: sx(v), x2: sx(v), y1: top + h, y2: top + h + 4 });
      node(svg, "text", { class: "num", x: sx(v), y: top + h + 17, "text-anchor": "middle" }, short(v));
    }
    for (const v of y.hide ? [] : ticks(y.low, y.high, yAbout ?? Math.max(2, h / 44))) {
      node(svg, "line", { class: "grid", x1: left, x2: left + w, y1: sy(v), y2: sy(v) });
      node(svg, "text", { class: "num", x: left - 7, y: sy(v) + 3.5, "text-anchor": "end" }, short(v));
    }
    node(svg, "line", { class: "axis", x1: left, x2: left + w, y1: top + h, y2: top + h });
    node(svg, "text", { class: "label", x: left + w, y: height - 6, "text-anchor": "end" }, x.label);
    if (y.label) node(svg, "text", { class: "label", x: 0, y: 11 }, y.label);
    box.replaceChildren(svg);
    return { svg, sx, sy, width, w, h, left, top };
  };

  const say = (box, line) => {
    const p = document.createElement("p");
    p.className = "hint";
    p.textContent = line;
    box.replaceChildren(p);
  };

  const histogram = (box, data) => {
    if (!data) return say(box, "No token was scored.");
    const { width: step, counts, beyond } = data;
    const high = step * counts.length;
    const f = frame(box, {
      height: 250, left: 46, top: 28,
      x: { low: 0, high, label: "nll of a token (nats)" },
      y: { low: 0, high: Math.max(...counts) * 1.04, label: "tokens" },
      title: "Histogram of nll over all scored tokens",
      desc: `${short(data.tokens)} tokens. Half of them have less than ${short(data.median)} nats, nine in ten ` +
        `less than ${short(data.q90)} nats; the mean is ${short(data.mean)} nats.`,
    });
    counts.forEach((count, i) => {
      if (!count) return;
      const x = f.sx(i * step);
      const bar = node(f.svg, "rect", { class: "fill", x: x + 0.5, y: f.sy(count),
        width: Math.max(f.sx((i + 1) * step) - x - 1, 0.5), height: Math.max(f.sy(0) - f.sy(count), 0.5) });
      const more = i === counts.length - 1 && beyond ? " or more" : "";
      node(bar, "title", {}, `${short(i * step)} to ${short((i + 1) * step)}${more} nats: ${short(count)} tokens`);
    });
    [["median", data.median], ["mean", data.mean]].forEach(([name, v], i) => {
      if (v > high) return;
      node(f.svg, "line", { class: `rule ${name}`, x1: f.sx(v), x2: f.sx(v), y1: f.top - 6, y2: f.sy(0) });
      const y = f.top + 2 + 17 * i;
      node(f.svg, "line", { class: `rule ${name}`, x1: f.width - 136, x2: f.width - 112, y1: y - 4, y2: y - 4 });
      node(f.svg, "text", { class: "note", x: f.width - 104, y }, `${name} ${short(v)}`);
    });
  };

  // Few texts: a named row each, in order. Many: one band, dots set apart so that none hides another.
  const dots = (box, items, axis) => {
    const known = items.filter((d) => Number.isFinite(d.value)).sort((a, b) => a.value - b.value);
    if (!known.length) return say(box, "No text has a value for this score.");
    const missing = items.length - known.length;
    const values = known.map((d) => d.value);
    const span = values[values.length - 1] - values[0] || Math.abs(values[0]) || 1;
    let low = values[0] - span * 0.05;
    if (values[0] >= 0 && values[0] < span * 0.5) low = 0;
    const high = values[values.length - 1] + span * 0.05;
    const named = known.length <= 16;
    const room = Math.max(box.clientWidth, 240);
    const left = named ? Math.min(Math.max(...known.map((d) => [...d.name].length)) * 6.6 + 14, room * 0.36) : 14;
    const middle = values[values.length >> 1];
    const f = frame(box, {
      height: named ? 56 + Math.max(known.length, 4) * 22 : 250, left, top: 12,
      x: { low, high, label: axis }, y: { low: 0, high: 1, hide: true },
      title: `Texts by ${axis}`,
      desc: `${known.length} texts from ${short(values[0])} to ${short(values[values.length - 1])}, ` +
        `the middle one at ${short(middle)}.` + (missing ? ` ${missing} without a value are left out.` : ""),
    });
    const stacks = new Map();
    known.forEach((d, i) => {
      const x = f.sx(d.value);
      let y;
      if (named) {
        y = f.top + ((i + 0.5) * f.h) / known.length;
        const fits = Math.max(Math.floor((left - 14) / 6.6), 4);
        const name = [...d.name];
        node(f.svg, "line", { class: "grid", x1: left, x2: f.left + f.w, y1: y, y2: y });
        node(f.svg, "text", { class: "name", x: left - 8, y: y + 4, "text-anchor": "end" },
          name.length > fits ? `${name.slice(0, fits - 1).join("")}…` : d.name);
      } else {
        const slot = Math.round(x / 7);
        const n = stacks.get(slot) ?? 0;
        stacks.set(slot, n + 1);
        const off = Math.ceil(n / 2) * 7 * (n % 2 ? 1 : -1);
        y = f.top + f.h / 2 + Math.max(-f.h / 2 + 4, Math.min(f.h / 2 - 4, off));
      }
      const dot = node(f.svg, "circle", { class: "dot", cx: x, cy: y, r: named ? 5 : 3.4 });
      node(dot, "title", {}, `${d.name}: ${short(d.value)}`);
      dot.addEventListener("click", () => d.open());
    });
    if (missing) node(f.svg, "text", { class: "note", x: 0, y: f.top + f.h + 38 }, `${missing} without a value`);
  };

  // Bars of nll along the text (the highest of each pixel when there are more tokens than pixels) and a running mean.
  const curve = (box, nll, name, prompt) => {
    const known = nll.filter((v) => Number.isFinite(v));
    if (known.length < 2) return null;
    const n = nll.length;
    const most = Math.max(...known.length > 50000 ? known.slice(0, 50000) : known, 1);
    const f = frame(box, {
      height: 132, left: 34, top: 20, bottom: 38,
      x: { low: 0.5, high: n + 0.5, label: "token", whole: true },
      y: { low: 0, high: most, label: "nll (nats)" }, yAbout: 3,
      title: `nll along ${name}`,
      desc: `nll of ${known.length} tokens in reading order, at most ${short(most)} nats, with a running mean.`,
    });
    const per = Math.max(1, Math.ceil(n / f.w));
    for (let i = 0; i < n; i += per) {
      const part = nll.slice(i, i + per).filter((v) => !Number.isNaN(v));
      if (!part.length) continue;
      const v = Math.min(Math.max(...part), most);
      const x = f.sx(i + 0.5 + per / 2);
      node(f.svg, "line", { class: i < prompt ? "stem prompt" : "stem", x1: x, x2: x, y1: f.sy(0), y2: f.sy(v),
        "stroke-width": Math.min(Math.max((f.w * per) / n - 1, 1), 8) });
    }
    const half = Math.max(2, Math.round(n / 50));
    let path = "";
    for (let i = 0; i < n; i += per) {
      const near = nll.slice(Math.max(0, i - half), i + half + 1).filter((v) => Number.isFinite(v));
      if (!near.length) continue;
      const v = near.reduce((a, b) => a + b, 0) / near.length;
      path += `${path ? "L" : "M"}${f.sx(i + 1).toFixed(1)} ${f.sy(Math.min(v, most)).toFixed(1)}`;
    }
    node(f.svg, "path", { class: "mean", d: path });
    node(f.svg, "text", { class: "note", x: f.left + f.w, y: 11, "text-anchor": "end" },
      `line: mean of ${2 * half + 1} tokens`);
    const cursor = node(f.svg, "line", { class: "cursor", x1: 0, x2: 0, y1: f.top, y2: f.sy(0), visibility: "hidden" });
    return (i) => {
      if (i === null) return cursor.setAttribute("visibility", "hidden");
      cursor.setAttribute("x1", f.sx(i + 1));
      cursor.setAttribute("x2", f.sx(i + 1));
      cursor.setAttribute("visibility", "visible");
    };
  };

  return { histogram, dots, curve };
})();
