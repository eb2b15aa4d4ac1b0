/* The closed forms of CBDM on a line, and two pictures to play with. No dependency; works from a file.
   docs/test_playground.py holds the formulas to cbdm_core and cbdm_priors. */
"use strict";

const cbdm = (() => {
  const sum = (a) => a.reduce((x, y) => x + y, 0);
  const dot = (a, b) => sum(a.map((x, i) => x * b[i]));

  // Nichol & Dhariwal's cosine schedule at real t.
  function cosine(t, s = 0.008) {
    const start = (Math.PI / 2) * (s / (1 + s));
    const angle = (Math.PI / 2) * ((t + s) / (1 + s));
    const variance = (Math.sin(angle - start) * Math.sin(angle + start)) / Math.cos(start) ** 2;
    return { alpha: Math.max(0, Math.cos(angle) / Math.cos(start)), sigma: Math.sqrt(Math.min(1, Math.max(0, variance))) };
  }

  // Laws made from counts; a class without images has probability 0.
  const WEIGHTS = {
    training: (n) => Math.log(n),
    "power ½": (n) => 0.5 * Math.log(n),
    uniform: () => 0,
    "balanced 0.99": (n) => -Math.log(-Math.expm1(n * Math.log(0.99))),
    "power −1": (n) => -Math.log(n),
  };
  function law(name, counts) {
    const logs = counts.map((n) => (n > 0 ? WEIGHTS[name](n) : -Infinity));
    const most = Math.max(...logs);
    const weights = logs.map((w) => Math.exp(w - most));
    return weights.map((w) => w / sum(weights));
  }
  const effective = (pi) => Math.exp(-sum(pi.map((p) => (p > 0 ? p * Math.log(p) : 0))));
  // The pulls of class c where its posterior is its share q: λ from its own rows, γλπ/q from rows that drew it.
  const strengths = (pi, counts, lambda, gamma) =>
    pi.map((p, c) => (counts[c] > 0 ? lambda * (1 + (gamma * p * sum(counts)) / counts[c]) : 0));

  const implied = (omega, lambda) => (1 + omega) / (1 + lambda) - 1;

  // Of the mixture Σ q_c N(μ_c, v_c): true predictions ε̂ and posteriors at x_t.
  function truth(x, t, mixture) {
    const { alpha, sigma } = cosine(t);
    const spread = mixture.variances.map((v) => alpha ** 2 * v + sigma ** 2);
    const away = mixture.means.map((m) => x - alpha * m);
    const total = sum(mixture.counts);
    const logs = away.map((a, c) => Math.log(mixture.counts[c] / total) - 0.5 * (a ** 2 / spread[c] + Math.log(spread[c])));
    const most = Math.max(...logs);
    const weights = logs.map((l) => Math.exp(l - most));
    return { e: away.map((a, c) => (sigma * a) / spread[c]), r: weights.map((w) => w / sum(weights)) };
  }

  // Statement 8: A e = diag(r) e*, solved by elimination; rows are divided by the diagonal, as in cbdm_priors.optimum.
  function balanced(e, r, pi, lambda, gamma) {
    const rows = r.map((rc, c) => {
      const diagonal = rc * (1 + lambda) + gamma * lambda * pi[c];
      if (diagonal <= 0) return [...e.map((_, k) => Number(k === c)), e[c]];
      const row = e.map((_, k) => Number(k === c) - (lambda * (rc * pi[k] + gamma * r[k] * pi[c])) / diagonal);
      return [...row, (rc * e[c]) / diagonal];
    });
    return solved(rows);
  }
  function solved(rows) {
    const size = rows.length;
    for (let i = 0; i < size; i++) {
      let pivot = i;
      for (let k = i + 1; k < size; k++) if (Math.abs(rows[k][i]) > Math.abs(rows[pivot][i])) pivot = k;
      [rows[i], rows[pivot]] = [rows[pivot], rows[i]];
      for (let k = 0; k < size; k++) {
        if (k === i) continue;
        const factor = rows[k][i] / rows[i][i];
        for (let j = i; j <= size; j++) rows[k][j] -= factor * rows[i][j];
      }
    }
    return rows.map((row, i) => row[size] / row[i]);
  }

  // What CBDM converges to under a law, "null" included; plain training where tau is 0.
  function optimum(x, t, mixture, { law: name, tau, gamma }) {
    const { e, r } = truth(x, t, mixture);
    const nothing = dot(r, e);
    const lambda = tau * t;
    if (name === "null") return { e: e.map((own) => (own + lambda * nothing) / (1 + lambda)), nothing };
    return { e: balanced(e, r, law(name, mixture.counts), lambda, gamma), nothing };
  }

  // DDIM with η = 0 from points of the starting noise, guided by ω(t).
  function transported(points, label, mixture, model, omega, steps = 60) {
    return points.map((start) => {
      let x = start;
      for (let i = 0; i < steps; i++) {
        const t = (0.999 * (steps - i)) / steps;
        const s = (0.999 * (steps - i - 1)) / steps;
        const { e, nothing } = optimum(x, t, mixture, model);
        const guided = e[label] + omega(t) * (e[label] - nothing);
        const now = cosine(t);
        const next = s > 0 ? cosine(s) : { alpha: 1, sigma: 0 };
        x = (next.alpha * (x - now.sigma * guided)) / now.alpha + next.sigma * guided;
      }
      return x;
    });
  }

  // Mass over width between neighbours of transported points.
  function density(z, x) {
    const mass = z.slice(1).map((end, i) => normal((z[i] + end) / 2) * (end - z[i]));
    return mass.map((m, i) => ({ x: (x[i] + x[i + 1]) / 2, p: m / Math.max(1e-9, x[i + 1] - x[i]), mass: m }));
  }
  const normal = (z) => Math.exp(-(z ** 2) / 2) / Math.sqrt(2 * Math.PI);
  function moments(curve) {
    const total = sum(curve.map((at) => at.mass));
    const mean = sum(curve.map((at) => at.mass * at.x)) / total;
    return { mean, deviation: Math.sqrt(sum(curve.map((at) => at.mass * (at.x - mean) ** 2)) / total) };
  }

  const names = Object.keys(WEIGHTS);
  return { cosine, law, effective, strengths, implied, truth, balanced, optimum, transported, density, moments, normal, names };
})();
globalThis.cbdm = cbdm;

if (typeof document !== "undefined") document.addEventListener("DOMContentLoaded", () => {
  const SVG = "http://www.w3.org/2000/svg";
  const make = (name, attributes = {}, text = "", space = null) => {
    const node = space ? document.createElementNS(space, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.textContent = text;
    return node;
  };
  const drawn = (name, attributes, text = "") => make(name, attributes, text, SVG);
  const short = (value, digits = 2) => value.toFixed(digits).replace("-", "−");

  // One unit of a picture is one pixel, so that its letters are as large on a phone.
  const width = (place) => Math.max(300, Math.min(720, place.clientWidth));

  // The static figure makes room for what moves.
  function opened(kind) {
    const place = document.querySelector(`.playground-${kind}`);
    if (!place) return null;
    for (const child of place.children) child.hidden = true;
    return place;
  }

  function slider(holder, name, low, high, step, value, changed) {
    const label = make("label", {}, name);
    const shown = make("output", {}, String(value));
    const input = make("input", { type: "range", min: low, max: high, step, value });
    input.addEventListener("input", () => { shown.textContent = input.value; changed(); });
    label.append(input, shown);
    holder.append(label);
    return () => Number(input.value);
  }
  function choice(holder, name, options, chosen, changed) {
    const label = make("label", {}, name);
    const select = make("select");
    for (const option of options) select.append(make("option", option === chosen ? { selected: "" } : {}, option));
    select.addEventListener("change", changed);
    label.append(select);
    holder.append(label);
    return () => select.value;
  }

  function densities() {
    const place = opened("densities");
    if (!place) return;
    const controls = make("div", { class: "playground-controls" });
    const svg = drawn("svg", { role: "img", class: "playground-picture" });
    const said = make("p", { class: "playground-said", "aria-live": "polite" });
    let waiting = false;
    const changed = () => {
      if (!waiting) requestAnimationFrame(() => { waiting = false; show(); });
      waiting = true;
    };
    const law = choice(controls, "law", ["null", ...cbdm.names], "null", changed);
    const label = choice(controls, "class", ["commonest", "middle", "rarest"], "rarest", changed);
    const tau = slider(controls, "τ", 0, 3, 0.05, 1, changed);
    const gamma = slider(controls, "γ", 0, 1, 0.05, 0.25, changed);
    const omega = slider(controls, "ω", -0.5, 3, 0.05, 0.5, changed);
    const share = slider(controls, "q, rarest : 100", 1, 100, 1, 3, changed);
    place.append(controls, svg, said);
    const z = Array.from({ length: 161 }, (_, i) => -4 + i / 20);

    function show() {
      const model = { law: law(), tau: tau(), gamma: gamma() };
      const plain = { ...model, law: "null", tau: 0 };
      const mixture = { means: [-1.6, 0.2, 1.8], variances: [0.2025, 0.2025, 0.2025], counts: [100, 10 * Math.sqrt(share()), share()] };
      const c = ["commonest", "middle", "rarest"].indexOf(label());
      const curve = (of, guide) => cbdm.density(z, cbdm.transported(z, c, mixture, of, guide));
      const curves = {
        "CBDM, ω": curve(model, () => omega()),
        "plain, ω_eff(t)": curve(plain, (t) => cbdm.implied(omega(), tau() * t)),
        "plain, ω": curve(plain, () => omega()),
      };
      const own = z.map((at) => ({ x: mixture.means[c] + 0.45 * at, p: cbdm.normal(at) / 0.45 }));
      const gap = Math.max(...curves["CBDM, ω"].map((at, i) => Math.abs(at.x - curves["plain, ω_eff(t)"][i].x)));
      picture(own, curves);
      const words = Object.entries(curves).map(([name, of]) => {
        const { mean, deviation } = cbdm.moments(of);
        return `${name}: mean ${short(mean)}, deviation ${short(deviation)}`;
      });
      words.push(gap < 1e-6 ? "CBDM and the plain model under ω_eff(t) coincide" : `CBDM and ω_eff(t) are up to ${short(gap)} apart`);
      said.textContent = `${words.join("; ")}. The class itself: mean ${short(mixture.means[c])}, deviation 0.45.`;
      svg.setAttribute("aria-label", `Densities of samples of the ${label()} class. ${said.textContent}`);
    }

    function picture(own, curves) {
      const most = Math.min(4, Math.max(1, ...Object.values(curves).flat().map((at) => at.p)) * 1.05);
      const wide = width(place);
      svg.setAttribute("viewBox", `0 0 ${wide} 300`);
      const X = (x) => 10 + ((x + 4.2) / 8.4) * (wide - 20);
      const Y = (p) => 260 - (Math.min(p, most) / most) * 240;
      const path = (points) => points.map((at, i) => `${i ? "L" : "M"}${X(at.x).toFixed(1)} ${Y(at.p).toFixed(1)}`).join("");
      svg.replaceChildren(drawn("path", { d: `${path(own)}Z`, class: "own" }));
      for (let x = -4; x <= 4; x++) svg.append(drawn("text", { x: X(x), y: 280, "text-anchor": "middle" }, short(x, 0)));
      svg.append(drawn("path", { d: `M10 260H${wide - 10}`, class: "axis" }));
      const kinds = { "plain, ω_eff(t)": "implied", "CBDM, ω": "pulled", "plain, ω": "plain" };
      Object.entries(kinds).forEach(([name, kind], i) => {
        svg.append(drawn("path", { d: path(curves[name]), class: kind }));
        svg.append(drawn("path", { d: `M10 ${22 + 20 * i}h32`, class: kind }), drawn("text", { x: 50, y: 26 + 20 * i }, name));
      });
      svg.append(drawn("path", { d: "M10 77h32v10h-32Z", class: "own" }), drawn("text", { x: 50, y: 86 }, "the class itself"));
    }
    addEventListener("resize", changed);
    show();
  }

  function laws() {
    const place = opened("laws");
    if (!place) return;
    const counts = [174, 72, 30, 12, 5, 3];
    const MOST = 1000;
    const controls = make("div", { class: "playground-controls" });
    const svg = drawn("svg", { role: "group", class: "playground-picture", "aria-label": "Images of each class: drag a bar, or use the arrow keys" });
    const frame = make("div", { class: "playground-table" });
    const tau = slider(controls, "τ", 0, 3, 0.05, 1, table);
    const gamma = slider(controls, "γ", 0, 1, 0.05, 0.25, table);
    place.append(controls, svg, frame);
    const height = (n) => (Math.log(n) / Math.log(MOST)) * 200;
    const bars = counts.map((_, c) => {
      const group = drawn("g", { tabindex: 0, role: "slider", "aria-label": `images of class ${c}`, "aria-valuemin": 1, "aria-valuemax": MOST, "aria-orientation": "vertical" });
      const area = drawn("rect", { y: 20, height: 200, class: "area" });
      const bar = drawn("rect", { class: "bar" });
      const text = drawn("text", { "text-anchor": "middle" });
      const name = drawn("text", { y: 240, "text-anchor": "middle" }, `class ${c}`);
      group.append(area, bar, text, name);
      group.addEventListener("pointerdown", (event) => { group.setPointerCapture(event.pointerId); moved(event, c); });
      group.addEventListener("pointermove", (event) => { if (group.hasPointerCapture(event.pointerId)) moved(event, c); });
      group.addEventListener("keydown", (event) => pressed(event, c));
      svg.append(group);
      return { group, area, bar, text, name };
    });
    function arrange() {
      const wide = width(place) / counts.length;
      svg.setAttribute("viewBox", `0 0 ${width(place)} 260`);
      bars.forEach(({ area, bar, text, name }, c) => {
        for (const box of [area, bar]) { box.setAttribute("x", wide * (c + 0.08)); box.setAttribute("width", wide * 0.84); }
        for (const word of [text, name]) word.setAttribute("x", wide * (c + 0.5));
      });
    }

    function set(c, n) {
      counts[c] = Math.min(MOST, Math.max(1, Math.round(n)));
      show();
    }
    function moved(event, c) {
      const box = svg.getBoundingClientRect();
      const y = ((event.clientY - box.top) / box.height) * 260;
      set(c, Math.exp(((220 - y) / 200) * Math.log(MOST)));
    }
    function pressed(event, c) {
      const n = counts[c];
      const to = { ArrowUp: n + 1, ArrowRight: n + 1, ArrowDown: n - 1, ArrowLeft: n - 1, PageUp: n * 2, PageDown: n / 2, Home: 1, End: MOST }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      set(c, to);
    }
    function show() {
      bars.forEach(({ group, bar, text }, c) => {
        const tall = Math.max(2, height(counts[c]));
        bar.setAttribute("y", 220 - tall);
        bar.setAttribute("height", tall);
        text.setAttribute("y", 214 - tall);
        text.textContent = counts[c];
        group.setAttribute("aria-valuenow", counts[c]);
      });
      table();
    }
    function table() {
      const head = ["law", ...counts.map((_, c) => `π(${c})`), "effective classes", "strength on the commonest", "on the rarest"];
      const rarest = counts.indexOf(Math.min(...counts));
      const commonest = counts.indexOf(Math.max(...counts));
      const whole = make("table", { class: "docutils" });
      whole.append(row(head, "th"));
      for (const name of cbdm.names) {
        const pi = cbdm.law(name, counts);
        const pull = cbdm.strengths(pi, counts, tau(), gamma());
        whole.append(row([name, ...pi.map((p) => short(p, 3)), short(cbdm.effective(pi), 1), short(pull[commonest]), short(pull[rarest])], "td"));
      }
      frame.replaceChildren(whole);
    }
    function row(cells, kind) {
      const line = make("tr");
      for (const text of cells) line.append(make(kind, {}, text));
      return line;
    }
    addEventListener("resize", arrange);
    arrange();
    show();
  }

  densities();
  laws();
});
