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

  // A token's string where it is told: white space made visible, and a sign for one that only goes on
  // with the character before it.
  worded: (s) => (s === "" ? "⋯" : s.replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/^ +| +$/g, (m) => "␣".repeat(m.length))),

  // How many tokens make up the characters at token i: [place of i among them from 1, their number].
  share(strings, places, i) {
    let first = i;
    while (first > 0 && strings[places[first]] === "") first -= 1;
    let last = i;
    while (last + 1 < places.length && strings[places[last + 1]] === "") last += 1;
    return [i - first + 1, last - first + 1];
  },

  // White space is marked by style, so that a copied text is the text.
  fill(token, s) {
    const blank = s.trim() === "";
    token.classList.toggle("eol", s.endsWith("\n"));
    token.classList.toggle("more", s === "");
    for (const part of s.replace(/^ (?=\S)/, "").split(/(\n|\t| )/)) {
      if (part === "\n") token.append(Nll.make("span", { class: "nl" }, "\n"));
      else if (part === "\t") token.append(Nll.make("span", { class: "tab" }, "\t"));
      else if (part === " " && blank) token.append(Nll.make("span", { class: "sp" }, " "));
      else if (part) token.append(part);
    }
  },

  percent(p) {
    if (p <= 0 || p === 1) return `${p > 0 ? 100 : 0}%`;
    if (p < 1e-4) return "< 0.01%";
    if (p >= 0.9995) return "> 99.9%";
    return `${p >= 0.0995 ? (p * 100).toFixed(1) : p >= 0.001 ? (p * 100).toPrecision(2) : (p * 100).toFixed(2)}%`;
  },
};
