"use strict";
// What the other scripts share. Everything that comes from a text or a model enters the page as textContent.
const Nll = {
  at: (id) => document.getElementById(id),

  read: (id) => JSON.parse(document.getElementById(id).textContent),

  make(name, attributes = {}, ...children) {
    const el = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined) el.setAttribute(key, value);
    }
    el.append(...children);
    return el;
  },

  announce(line) { document.getElementById("live").textContent = line; },

  short(x) {
    if (x === null || Number.isNaN(x)) return "–";
    if (!Number.isFinite(x)) return x > 0 ? "∞" : "−∞";
    const size = Math.abs(x);
    const line = size >= 1000 ? Math.round(x).toLocaleString("en")
      : size !== 0 && size < 1e-3 ? x.toPrecision(2)
      : String(Number(x.toPrecision(size >= 100 ? 4 : 3)));
    return line.replace("-", "−");
  },

  percent(p) {
    if (p <= 0 || p === 1) return `${p > 0 ? 100 : 0}%`;
    if (p < 1e-4) return "< 0.01%";
    if (p >= 0.9995) return "> 99.9%";
    return `${p >= 0.0995 ? (p * 100).toFixed(1) : p >= 0.001 ? (p * 100).toPrecision(2) : (p * 100).toFixed(2)}%`;
  },
};
