"use strict";
// Texts as heat maps, the panel about one token, and what fills the plots.
(() => {
  if (!NllTable) return;
  const { at, read, make, announce, short, percent, worded, share, fill } = Nll;
  const { table, rows, heads, valueOf } = NllTable;
  const page = read("data");
  const panel = at("panel");
  let chosen = null;
  let pinned = null;
  const wide = matchMedia("(min-width: 60rem)");
  const calm = matchMedia("(prefers-reduced-motion: reduce)");

  // ---- measures and their colour steps
  const measures = {
    nll: { key: "l", edges: [0.1, 0.5, 1, 2, 3, 5, 7, 10], unit: "nats" },
    entropy: { key: "h", edges: [0.1, 0.5, 1, 1.5, 2, 3, 4, 6], unit: "nats" },
    rank: { key: "r", edges: [2, 3, 5, 10, 30, 100, 1000, 10000], unit: "place, 1 is the likeliest" },
  };
  let measure = "nll";
  const step = (value, edges) => {
    const found = edges.findIndex((edge) => value < edge);
    return found < 0 ? edges.length : found;
  };

  const drawScale = () => {
    const { edges, unit } = measures[measure];
    const scale = at("scale");
    const cells = Array.from({ length: edges.length + 1 }, (_, i) => {
      const text = measure === "rank" && i === 0 ? "1" : i === 0 ? "0" : short(edges[i - 1]);
      return make("span", { "data-step": i }, text);
    });
    scale.replaceChildren(...cells, make("i", {}, unit));
    scale.setAttribute("aria-label", `Colour scale of ${measure}, ${unit}: nine steps from ` +
      `${measure === "rank" ? 1 : 0} (palest) over ${edges.map(short).join(", ")} to more (strongest)`);
  };

  // ---- texts: read, built and painted only when they come into view
  const CHUNK = 1200;
  const boxes = [...document.querySelectorAll("details.text")];
  const texts = new Map();
  const numbers = (list) => list && list.map((v) => (v === null ? NaN : Number(v)));

  const open = (t) => {
    if (!texts.has(t)) {
      const raw = read(`data-${t}`);
      texts.set(t, { t, p: raw.p, s: raw.s, a: raw.a, m: raw.m, l: numbers(raw.l), h: numbers(raw.h),
        r: numbers(raw.r), name: boxes[t].querySelector("h3").textContent, tokens: [], active: 0 });
    }
    return texts.get(t);
  };

  const stateOf = (text, i) => (i < text.p ? "prompt" : Number.isNaN(text.l[i]) ? "none" : "scored");

  const label = (text, i) => {
    const parts = [page.strings[text.s[i]] === "" ? "goes on with the character before" : worded(page.strings[text.s[i]])];
    const state = stateOf(text, i);
    if (state === "prompt") parts.push("prompt, not scored");
    if (state === "none") parts.push("no prediction");
    if (!Number.isNaN(text.l[i])) parts.push(`nll ${short(text.l[i])} nats`, `probability ${percent(Math.exp(-text.l[i]))}`);
    if (text.r && !Number.isNaN(text.r[i])) parts.push(`rank ${short(text.r[i])}`);
    if (text.h && !Number.isNaN(text.h[i])) parts.push(`entropy ${short(text.h[i])} nats`);
    return parts.join(", ");
  };

  const paint = (text, i) => {
    const token = text.tokens[i];
    const { key, edges } = measures[measure];
    const value = text[key] ? text[key][i] : NaN;
    if (stateOf(text, i) !== "scored" || Number.isNaN(value)) {
      token.removeAttribute("data-step");
      token.classList.toggle("none", stateOf(text, i) !== "prompt");
    } else {
      token.classList.remove("none");
      token.dataset.step = step(value, edges);
    }
  };

  const build = (text) => {
    const from = text.tokens.length;
    const upto = Math.min(from + CHUNK, text.s.length);
    const chunk = make("span", { class: "chunk" });
    for (let i = from; i < upto; i++) {
      const token = make("span", { class: `tok ${stateOf(text, i)}`, role: "button", "data-i": i,
        tabindex: i === text.active ? 0 : -1, "aria-pressed": "false", "aria-label": label(text, i) });
      fill(token, page.strings[text.s[i]]);
      text.tokens.push(token);
      paint(text, i);
      // The space before a word stays uncoloured, so that no line ends in a sliver of the next line's colour.
      if (/^ \S/.test(page.strings[text.s[i]])) chunk.append(" ");
      chunk.append(token);
    }
    text.flow.append(chunk);
    if (upto === text.s.length) text.rest?.remove();
  };

  const show = (t) => {
    const text = open(t);
    if (text.flow) return;
    const body = boxes[t].querySelector(".body");
    text.flow = make("div", { class: "flow", role: "group", dir: "auto", "aria-label": `Tokens of ${text.name}` });
    text.plot = make("div", { class: "plot curve" });
    body.append(text.flow);
    if (text.s.length > CHUNK) {
      text.rest = make("button", { type: "button", class: "rest" }, "Show more tokens");
      text.rest.addEventListener("click", () => build(text));
      body.append(text.rest);
      new IntersectionObserver((seen) => {
        if (seen.some((s) => s.isIntersecting)) build(text);
      }, { rootMargin: "600px" }).observe(text.rest);
    }
    body.append(text.plot);
    build(text);
    text.mark = NllPlots.curve(text.plot, text.l, text.name, text.p);
    body.dataset.t = t;
    if (!chosen && wide.matches) {
      const most = text.l.reduce((best, v, i) => (stateOf(text, i) === "scored" && !(v <= text.l[best]) ? i : best), text.p);
      if (text.tokens[most]) choose(text, most);
    }
  };

  const near = new IntersectionObserver((seen) => {
    for (const s of seen) if (s.isIntersecting && s.target.open) show(boxes.indexOf(s.target));
  }, { rootMargin: "300px" });
  boxes.forEach((box, t) => {
    near.observe(box);
    // Reading ahead of an opening is wasted work, so a closed text waits for its toggle.
    box.addEventListener("toggle", () => { if (box.open) show(t); });
  });

  const goTo = (t) => {
    boxes[t].open = true;
    show(t);
    boxes[t].scrollIntoView({ behavior: calm.matches ? "auto" : "smooth", block: "start" });
    boxes[t].querySelector("summary").focus({ preventScroll: true });
  };
  const follow = () => {
    const found = /^#text-(\d+)$/.exec(location.hash);
    if (found && boxes[found[1]]) goTo(Number(found[1]));
  };
  addEventListener("hashchange", follow);
  table.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='#text-']");
    if (link && link.getAttribute("href") === location.hash) follow();
  });

  // ---- the panel about one token
  const row = (name, p, kind, place) => {
    const bar = make("i", { class: "amount" });
    bar.style.width = `${Math.min(p * 100, 100)}%`;
    return make("li", { class: kind }, make("span", { class: "place" }, place),
      make("span", { class: "what" }, make("bdi", {}, worded(name))),
      make("span", { class: "track", "aria-hidden": "true" }, bar), make("span", { class: "share" }, percent(p)));
  };

  const far = (rank) => (Number.isNaN(rank) ? "…" : rank < 10000 ? String(rank) : `${Math.round(rank / 1000)}k`);

  const alternatives = (text, i) => {
    const pack = text.a ? text.a[i] : [];
    const list = make("ol", { class: "alts" });
    const p = Math.exp(-text.l[i]);
    let rest = 1;
    for (let j = 0; j < pack.length; j += 2) {
      const own = text.m[i] === j / 2;
      // The token's own share comes from its nll, which is finer than what alternatives are sent with.
      const share = own && !Number.isNaN(p) ? p : pack[j + 1] / 10000;
      rest -= share;
      list.append(row(page.strings[pack[j]], share, own ? "own" : "", `${j / 2 + 1}`));
    }
    if (pack.length && text.m[i] < 0 && !Number.isNaN(p)) {
      rest -= p;
      list.append(row(page.strings[text.s[i]], p, "own", far(text.r ? text.r[i] : NaN)));
    }
    return { list, rest: Math.max(rest, 0), some: pack.length > 0 };
  };

  const describe = (text, i) => {
    const state = stateOf(text, i);
    const known = !Number.isNaN(text.l[i]);
    const facts = make("dl");
    const fact = (name, value, unit) => facts.append(make("div", {}, make("dt", {}, name),
      make("dd", {}, value, ...(unit ? [make("small", {}, ` ${unit}`)] : []))));
    fact("nll", known ? short(text.l[i]) : "–", known && "nats");
    fact("probability", known ? percent(Math.exp(-text.l[i])) : "–");
    fact("rank", text.r ? short(text.r[i]) : "not held");
    fact("entropy", text.h ? short(text.h[i]) : "not held", text.h && !Number.isNaN(text.h[i]) && "nats");
    const held = pinned && pinned.text === text && pinned.i === i;
    const letGo = make("button", { type: "button", class: "close" }, held ? "Unpin" : "Close");
    letGo.addEventListener("click", release);
    const alts = alternatives(text, i);
    const [place, number] = share(page.strings, text.s, i);
    panel.replaceChildren(
      make("div", { class: "which" }, make("p", { class: "small" },
        `Token ${short(i + 1)} of ${short(text.s.length)} in `, make("bdi", {}, text.name)), letGo),
      make("p", { class: "word" }, make("bdi", {}, worded(page.strings[text.s[i - place + 1]]))),
      ...(number > 1 ? [make("p", { class: "small" }, `Token ${place} of the ${number} that make up this character.`)] : []),
      ...(state === "prompt" ? [make("p", { class: "small" }, "Part of the prompt: read, not scored.")] : []),
      ...(state === "none" ? [make("p", { class: "small" }, "The model made no prediction here.")] : []),
      facts,
      make("h3", {}, "Most likely here"),
      ...(alts.some ? [alts.list, make("p", { class: "small" }, `All other tokens: ${percent(alts.rest)}`)]
        : [make("p", { class: "hint" }, text.a ? "None: no prediction was made." : "This trace holds no alternatives.")]),
    );
    panel.classList.toggle("pinned", Boolean(held));
  };

  const choose = (text, i) => {
    chosen?.token.classList.remove("on");
    if (chosen && chosen.text !== text) chosen.text.mark?.(null);
    chosen = { text, i, token: text.tokens[i] };
    chosen.token.classList.add("on");
    panel.classList.add("full");
    text.mark?.(i);
    describe(text, i);
  };
  const pin = (text, i) => {
    pinned?.token.setAttribute("aria-pressed", "false");
    pinned = { text, i, token: text.tokens[i] };
    pinned.token.setAttribute("aria-pressed", "true");
    choose(text, i);
    const said = [...panel.querySelectorAll(".alts li")].slice(0, 5)
      .map((li) => `${li.querySelector(".what").textContent} ${li.querySelector(".share").textContent}`);
    announce(`Pinned. ${said.length ? `Most likely here: ${said.join(", ")}` : "No alternatives"}`);
  };
  function release() {
    pinned?.token.setAttribute("aria-pressed", "false");
    const was = pinned ?? chosen;
    pinned = null;
    panel.classList.remove("full", "pinned");
    if (was) {
      describe(was.text, was.i);
      if (panel.contains(document.activeElement) || document.activeElement === document.body) {
        was.token.focus({ preventScroll: true });
        panel.classList.remove("full");
      }
    }
    announce("Unpinned");
  }

  const place = (event) => {
    const token = event.target.closest?.(".tok");
    return token && { token, text: texts.get(Number(token.closest(".body").dataset.t)), i: Number(token.dataset.i) };
  };
  const makeActive = (text, i) => {
    text.tokens[text.active].tabIndex = -1;
    text.active = i;
    text.tokens[i].tabIndex = 0;
  };

  const lineAway = (text, from, way) => {
    const middle = (r) => (r.left + r.right) / 2;
    const rect = (i) => text.tokens[i].getClientRects()[0];
    const start = rect(from);
    let best = from;
    let line = null;
    for (let i = from + way; text.tokens[i]; i += way) {
      const r = rect(i);
      if (!r || Math.abs(r.top - start.top) < start.height / 2) continue;
      line ??= r.top;
      if (Math.abs(r.top - line) > start.height / 2) break;
      if (best === from || Math.abs(middle(r) - middle(start)) < Math.abs(middle(rect(best)) - middle(start))) best = i;
    }
    return best;
  };

  const list = document.querySelector(".list");
  list.addEventListener("pointerover", (event) => {
    const found = place(event);
    if (found && !pinned && event.pointerType !== "touch") choose(found.text, found.i);
  });
  list.addEventListener("focusin", (event) => {
    const found = place(event);
    if (!found) return;
    makeActive(found.text, found.i);
    if (!pinned) choose(found.text, found.i);
  });
  list.addEventListener("click", (event) => {
    const found = place(event);
    if (!found) return;
    if (pinned && pinned.token === found.token) release();
    else pin(found.text, found.i);
  });
  list.addEventListener("keydown", (event) => {
    const found = place(event);
    if (!found || event.ctrlKey || event.metaKey || event.altKey) return;
    const { text, i } = found;
    const turned = getComputedStyle(text.flow).direction === "rtl" ? -1 : 1;
    let to = i;
    if (event.key === "ArrowRight") to = i + turned;
    else if (event.key === "ArrowLeft") to = i - turned;
    else if (event.key === "ArrowDown") to = lineAway(text, i, 1);
    else if (event.key === "ArrowUp") to = lineAway(text, i, -1);
    else if (event.key === "Home") to = 0;
    else if (event.key === "End") to = text.tokens.length - 1;
    else if (event.key === "Enter" || event.key === " ") {
      if (pinned && pinned.token === found.token) release();
      else pin(text, i);
    } else return;
    event.preventDefault();
    if (to >= text.tokens.length && to < text.s.length) build(text);
    if (to !== i) text.tokens[to]?.focus();
  });
  addEventListener("keydown", (event) => { if (event.key === "Escape" && chosen) release(); });

  document.querySelectorAll("input[name=measure]").forEach((input) => {
    input.addEventListener("change", () => {
      measure = input.value;
      drawScale();
      for (const text of texts.values()) text.tokens.forEach((_, i) => paint(text, i));
      announce(`Tokens coloured by ${measure}`);
    });
  });

  // ---- plots
  const select = at("score");
  heads.slice(1).forEach((head, i) => {
    const name = head.firstElementChild.textContent;
    select.append(make("option", { value: i + 1 }, name));
  });
  if (heads.length > 2) select.value = "2";
  const drawDots = () => {
    const column = Number(select.value);
    const items = rows.map((r) => ({ name: r.cells[0].textContent, value: valueOf(r.cells[column]),
      open: () => goTo(Number(r.dataset.row)) }));
    NllPlots.dots(at("dots"), items, heads[column].dataset.axis);
  };
  select.addEventListener("change", drawDots);
  const drawAll = () => {
    NllPlots.histogram(at("histogram"), page.nll);
    drawDots();
    for (const text of texts.values()) {
      if (!text.plot || !text.plot.clientWidth) continue;
      text.mark = NllPlots.curve(text.plot, text.l, text.name, text.p);
      if (chosen?.text === text) text.mark?.(chosen.i);
    }
  };
  let width = innerWidth;
  let later = 0;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    clearTimeout(later);
    later = setTimeout(drawAll, 120);
  });

  drawScale();
  drawAll();
  let budget = 2500;
  boxes.slice(0, 8).forEach((box) => {
    if (budget > 0) box.open = true;
    budget -= Number(box.dataset.tokens);
  });
  follow();
})();
