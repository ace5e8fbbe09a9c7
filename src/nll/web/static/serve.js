"use strict";
// The served page: a form, one or two texts as heat maps, the panel about one token, the scores.
(() => {
  const { at, make, announce, short, percent, worded, share, fill } = Nll;
  const form = at("form");
  const panel = at("panel");
  const status = at("status");
  const picked = (name) => form.elements[name].value;
  let strings = [];
  let sides = [];
  let chosen = null;
  let pinned = false;

  // ---- the form
  const shape = () => {
    const answer = picked("kind") === "answer";
    at("side-b").hidden = picked("compare") !== "text";
    document.querySelectorAll(".field .prompt").forEach((el) => { el.hidden = !answer; });
    document.querySelectorAll(".what").forEach((el) => { el.textContent = answer ? "Answer" : "Text"; });
  };
  form.addEventListener("change", shape);
  shape();

  const say = (line, wrong = false) => {
    status.textContent = line;
    status.classList.toggle("wrong", wrong);
  };

  const asked = () => {
    const answer = picked("kind") === "answer";
    const one = (side, model) => ({ model, text: at(`text-${side}`).value, prompt: answer ? at(`prompt-${side}`).value : null });
    const compare = picked("compare");
    if (compare === "text") return [one("a", 0), one("b", 0)];
    return compare === "model" ? [one("a", 0), one("a", 1)] : [one("a", 0)];
  };

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const headers = { "Content-Type": "application/json" };
    const token = at("token");
    if (token && token.value) headers.Authorization = `Bearer ${token.value}`;
    at("send").disabled = true;
    say("Reading …");
    try {
      const found = await fetch("/page/read", { method: "POST", headers, body: JSON.stringify({ sides: asked() }) });
      const answer = await found.json();
      if (!found.ok) say(answer.error.message, true);
      else {
        show(answer);
        say(`Read in ${short(answer.seconds)} s.`);
      }
    } catch {
      say("The server does not answer.", true);
    }
    at("send").disabled = false;
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });

  // ---- measures and their colour steps
  const measures = {
    nll: { key: "l", edges: [0.1, 0.5, 1, 2, 3, 5, 7, 10], unit: "nats" },
    entropy: { key: "h", edges: [0.1, 0.5, 1, 1.5, 2, 3, 4, 6], unit: "nats" },
    rank: { key: "r", edges: [2, 3, 5, 10, 30, 100, 1000, 10000], unit: "place, 1 is the likeliest" },
  };
  let measure = "nll";
  const drawScale = () => {
    const { edges, unit } = measures[measure];
    const least = measure === "rank" ? "1" : "0";
    const cells = [least, ...edges.map(short)].map((text, i) => make("span", { "data-step": i }, text));
    at("scale").replaceChildren(...cells, make("i", {}, unit));
    at("scale").setAttribute("aria-label", `Colour scale of ${measure}, ${unit}: nine steps from ${least} (palest) over ` +
      `${edges.map(short).join(", ")} to more (strongest)`);
  };

  const numbers = (list) => list && list.map((v) => (v === null ? NaN : Number(v)));
  const stateOf = (side, i) => (i < side.p ? "prompt" : Number.isNaN(side.l[i]) ? "none" : "scored");

  const label = (side, i) => {
    const parts = [strings[side.s[i]] === "" ? "goes on with the character before" : worded(strings[side.s[i]])];
    if (stateOf(side, i) === "prompt") parts.push("prompt, not scored");
    if (Number.isNaN(side.l[i])) parts.push("no prediction");
    else parts.push(`nll ${short(side.l[i])} nats`, `probability ${percent(Math.exp(-side.l[i]))}`, `rank ${short(side.r[i])}`);
    return parts.join(", ");
  };

  const paint = (side, i) => {
    const { key, edges } = measures[measure];
    const value = side[key][i];
    const token = side.tokens[i];
    const off = stateOf(side, i) !== "scored" || Number.isNaN(value);
    token.classList.toggle("none", off && stateOf(side, i) !== "prompt");
    if (off) token.removeAttribute("data-step");
    else {
      const found = edges.findIndex((edge) => value < edge);
      token.dataset.step = found < 0 ? edges.length : found;
    }
  };

  const build = (raw, number) => {
    const side = { number, name: raw.name, tokens: [], active: 0 };
    const box = make("article", { class: "side" }, make("header", {}, make("h3", {}, make("bdi", {}, raw.name))));
    if (raw.rejected) {
      box.append(make("p", { class: "wrong" }, `Not scored: ${raw.rejected}`));
      return { side: null, box };
    }
    const { packed } = raw;
    Object.assign(side, { s: packed.s, p: packed.p, a: packed.a, m: packed.m,
      l: numbers(packed.l), h: numbers(packed.h), r: numbers(packed.r) });
    box.firstChild.append(make("span", { class: "sums" }, `${short(side.s.length)} tokens`, make("b", {}, `mean nll ${raw.mean}`)));
    const flow = make("div", { class: "flow", role: "group", dir: "auto", "data-side": number, "aria-label": `Tokens of ${raw.name}` });
    side.s.forEach((place, i) => {
      const token = make("span", { class: `tok ${stateOf(side, i)}`, role: "button", "data-i": i, tabindex: i ? -1 : 0,
        "aria-pressed": "false", "aria-label": label(side, i) });
      fill(token, strings[place]);
      side.tokens.push(token);
      paint(side, i);
      if (/^ \S/.test(strings[place])) flow.append(" ");
      flow.append(token);
    });
    box.append(flow);
    return { side, box };
  };

  // ---- the panel about one token
  const row = (name, p, kind, place) => {
    const bar = make("i", { class: "amount" });
    bar.style.width = `${Math.min(p * 100, 100)}%`;
    return make("li", { class: kind }, make("span", { class: "place" }, place),
      make("span", { class: "what" }, make("bdi", {}, worded(name))),
      make("span", { class: "track", "aria-hidden": "true" }, bar), make("span", { class: "share" }, percent(p)));
  };
  const alternatives = (side, i) => {
    const list = make("ol", { class: "alts" });
    const pack = side.a ? side.a[i] : [];
    const own = Math.exp(-side.l[i]);
    for (let j = 0; j < pack.length; j += 2) {
      const mine = side.m[i] === j / 2;
      list.append(row(strings[pack[j]], mine ? own : pack[j + 1] / 10000, mine ? "own" : "", `${j / 2 + 1}`));
    }
    if (pack.length && side.m[i] < 0) list.append(row(strings[side.s[i]], own, "own", side.r[i] < 10000 ? `${side.r[i]}` : "…"));
    return pack.length ? list : make("p", { class: "hint" }, "None: no prediction was made.");
  };
  const describe = () => {
    const { side, i } = chosen;
    const known = !Number.isNaN(side.l[i]);
    const facts = make("dl");
    const fact = (name, value, unit) => facts.append(make("div", {}, make("dt", {}, name),
      make("dd", {}, value, ...(unit ? [make("small", {}, ` ${unit}`)] : []))));
    fact("nll", known ? short(side.l[i]) : "–", known && "nats");
    fact("probability", known ? percent(Math.exp(-side.l[i])) : "–");
    fact("rank", short(side.r[i]));
    fact("entropy", short(side.h[i]), !Number.isNaN(side.h[i]) && "nats");
    const letGo = make("button", { type: "button", class: "close" }, pinned ? "Unpin" : "Close");
    letGo.addEventListener("click", release);
    const [part, number] = share(strings, side.s, i);
    panel.replaceChildren(
      make("div", { class: "which" }, make("p", { class: "small" },
        `Token ${short(i + 1)} of ${short(side.s.length)} in `, make("bdi", {}, side.name)), letGo),
      make("p", { class: "word" }, make("bdi", {}, worded(strings[side.s[i - part + 1]]))),
      ...(number > 1 ? [make("p", { class: "small" }, `Token ${part} of the ${number} that make up this character.`)] : []),
      ...(stateOf(side, i) === "prompt" ? [make("p", { class: "small" }, "Part of the prompt: read, not scored.")] : []),
      facts, make("h3", {}, "Most likely here"), alternatives(side, i));
    panel.classList.toggle("pinned", pinned);
  };
  const choose = (side, i) => {
    chosen?.token.classList.remove("on");
    chosen = { side, i, token: side.tokens[i] };
    chosen.token.classList.add("on");
    panel.classList.add("full");
    describe();
  };
  const pin = (found) => {
    chosen?.token.setAttribute("aria-pressed", "false");
    pinned = true;
    choose(found.side, found.i);
    chosen.token.setAttribute("aria-pressed", "true");
    announce(`Pinned. ${label(found.side, found.i)}`);
  };
  function release() {
    if (!chosen) return;
    pinned = false;
    chosen.token.setAttribute("aria-pressed", "false");
    describe();
    if (panel.contains(document.activeElement) || document.activeElement === document.body) chosen.token.focus({ preventScroll: true });
    panel.classList.remove("full", "pinned");
    announce("Unpinned");
  }
  const hint = () => panel.replaceChildren(make("p", { class: "hint" }, "Point at a token to see what else the model expected there."));

  const place = (event) => {
    const token = event.target.closest?.(".tok");
    return token && { token, side: sides[token.parentElement.dataset.side], i: Number(token.dataset.i) };
  };
  const list = at("sides");
  list.addEventListener("pointerover", (event) => {
    const found = place(event);
    if (found && !pinned && event.pointerType !== "touch") choose(found.side, found.i);
  });
  list.addEventListener("focusin", (event) => {
    const found = place(event);
    if (!found) return;
    found.side.tokens[found.side.active].tabIndex = -1;
    found.side.active = found.i;
    found.token.tabIndex = 0;
    if (!pinned) choose(found.side, found.i);
  });
  const toggle = (found) => (pinned && chosen.token === found.token ? release() : pin(found));
  list.addEventListener("click", (event) => {
    const found = place(event);
    if (found) toggle(found);
  });
  list.addEventListener("keydown", (event) => {
    const found = place(event);
    if (!found || event.ctrlKey || event.metaKey || event.altKey) return;
    const way = getComputedStyle(found.token.parentElement).direction === "rtl" ? -1 : 1;
    const step = { ArrowRight: way, ArrowLeft: -way, ArrowDown: 10, ArrowUp: -10, Home: -found.i, End: found.side.tokens.length }[event.key];
    if (step === undefined && event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    if (step === undefined) toggle(found);
    else found.side.tokens[Math.min(Math.max(found.i + step, 0), found.side.tokens.length - 1)].focus();
  });
  addEventListener("keydown", (event) => { if (event.key === "Escape") release(); });

  // ---- the scores, a row each
  const cell = (c) => (c.value === null
    ? make("td", { class: "none" }, "–", make("small", {}, c.reason)) : make("td", {}, c.text));
  const table = (columns, names) => {
    const two = names.length === 2;
    const head = make("tr", {}, make("th", { scope: "col", class: "name" }, "score"),
      ...names.map((name) => make("th", { scope: "col" }, make("bdi", {}, name))),
      ...(two ? [make("th", { scope: "col" }, "second − first")] : []));
    const body = columns.map((c) => {
      const means = c.higher ? `Higher means ${c.higher}. ` : "";
      const line = make("tr", {}, make("th", { scope: "row" }, c.label, make("small", {}, `${means}${c.summary}`)), ...c.cells.map(cell));
      if (two) {
        const [a, b] = c.cells.map((x) => (x.value === null ? NaN : Number(x.value)));
        line.append(make("td", {}, Number.isFinite(b - a) ? short(b - a) : "–"));
      }
      return line;
    });
    at("scores").replaceChildren(make("thead", {}, head), make("tbody", {}, ...body));
  };

  const show = (answer) => {
    strings = answer.strings;
    chosen = null;
    pinned = false;
    const built = answer.sides.map(build);
    sides = built.map((b) => b.side);
    list.replaceChildren(...built.map((b) => b.box));
    list.classList.toggle("two", built.length === 2);
    table(answer.columns, answer.columns.length ? answer.sides.map((s) => s.name) : []);
    hint();
    panel.classList.remove("full", "pinned");
    at("result").hidden = false;
    drawScale();
    // On a small screen the answer would stand below what one sees.
    if (at("texts").getBoundingClientRect().top > innerHeight * 0.8) at("result").scrollIntoView({ block: "start" });
    const scored = answer.sides.filter((s) => !s.rejected);
    announce(`${scored.length} of ${built.length} read. ${scored.map((s) => `${s.name}: mean nll ${s.mean} nats`).join(". ")}`);
  };

  document.querySelectorAll("input[name=measure]").forEach((input) => {
    input.addEventListener("change", () => {
      measure = input.value;
      drawScale();
      for (const side of sides) side?.tokens.forEach((_, i) => paint(side, i));
      announce(`Tokens coloured by ${measure}`);
    });
  });
})();
