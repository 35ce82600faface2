"use strict";
// Zones and lines, drawn on the picture. Coordinates are relative to the frame, 0..1. The server checks what was drawn
// with the models that read the file, and makes the YAML.

const SVG = "http://www.w3.org/2000/svg";
const editor = document.getElementById("editor");
const card = document.querySelector("[data-stream]");
const frame = card.querySelector(".frame");
const base = `/streams/${encodeURIComponent(card.dataset.stream)}/shapes`;
const word = document.querySelector("meta[name=word]").content;
const find = (what) => editor.querySelector(`[data-${what}]`);
const button = (what) => editor.querySelector(`[data-do="${what}"]`);

let shapes = []; // {kind: "zone" | "line", name, was, points: [[x, y], …]}
let undone = [], done = []; // texts of `shapes`
let chosen = null, corner = 0; // index of a shape and of its corner
let draft = null; // {kind, points} while something new is drawn
let started = null; // what the server said when it began
let svg = null;

const clamp = (v) => Math.min(1, Math.max(0, v));
// Near the edge is meant to reach it.
const snap = (v) => (v < 0.008 ? 0 : v > 0.992 ? 1 : Math.round(v * 1e4) / 1e4);

async function ask(path, body) {
  const answer = await fetch(path, body && {
    method: "POST",
    headers: { "content-type": "application/json", "x-edgectl-word": word },
    body: JSON.stringify(body),
  });
  const value = await answer.json();
  if (!answer.ok) throw new Error([value.error, value.hint].filter(Boolean).join(" – "));
  return value;
}

function drawn() {
  const flat = (s) => s.points.flat();
  return {
    zones: shapes.filter((s) => s.kind === "zone").map((s) => ({ name: s.name, polygon: flat(s), was: s.was })),
    lines: shapes.filter((s) => s.kind === "line").map((s) => ({ id: s.name, line: flat(s), was: s.was })),
  };
}

function taken(answer) {
  started = answer;
  const pairs = (flat) => Array.from({ length: flat.length / 2 }, (_, i) => [flat[2 * i], flat[2 * i + 1]]);
  shapes = [
    ...answer.shapes.zones.map((z) => ({ kind: "zone", name: z.name, was: z.name, points: pairs(z.polygon) })),
    ...answer.shapes.lines.map((l) => ({ kind: "line", name: l.id, was: l.id, points: pairs(l.line) })),
  ];
  undone = [];
  done = [];
  chosen = null;
}

// -- changes --------------------------------------------------------------------------------------------------------

function remember() {
  done.push(JSON.stringify(shapes));
  if (done.length > 100) done.shift();
  undone = [];
}

function back(from, to) {
  if (!from.length) return;
  to.push(JSON.stringify(shapes));
  shapes = JSON.parse(from.pop());
  chosen = chosen !== null && chosen < shapes.length ? chosen : null;
  corner = 0;
  changed();
}

let due = 0;
function changed() {
  paint();
  names();
  button("undo").disabled = !done.length;
  button("redo").disabled = !undone.length;
  clearTimeout(due);
  due = setTimeout(check, 150);
}

let asked = 0;
async function check() {
  const mine = ++asked;
  const crossed = shapes.find((s) => s.kind === "zone" && crosses(s.points));
  try {
    if (crossed) throw new Error(`The outline of ${crossed.name} crosses itself: drag a corner back, or undo.`);
    const answer = await ask(base, { shapes: drawn(), base: started.base });
    if (mine !== asked) return;
    problem("");
    find("yaml").querySelector("code").textContent = answer.yaml;
    find("yaml").dataset.lost = answer.comments_kept ? "" : "1";
    button("save").disabled = !done.length;
  } catch (e) {
    if (mine !== asked) return;
    problem(e.message);
    button("save").disabled = true;
  }
  for (const what of ["copy", "download"]) button(what).disabled = Boolean(find("problem").textContent);
}

function problem(text) {
  find("problem").textContent = text;
  find("problem").hidden = !text;
  if (text) find("said").hidden = true;
}

function said(text) {
  find("said").textContent = text;
  find("said").hidden = !text;
}

function hint(text) {
  find("hint").textContent = text;
}

const HINT = "Drag corners, or a whole shape. A dot between two corners makes another one; Delete takes the chosen one away, arrow keys move it. Ctrl+Z undoes.";

function crosses(points) {
  const turn = (a, b, c) => Math.sign((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]));
  const n = points.length;
  for (let i = 0; i < n; i++) {
    for (let j = i + 2; j < n; j++) {
      if (i === 0 && j === n - 1) continue;
      const [a, b, c, d] = [points[i], points[i + 1], points[j], points[(j + 1) % n]];
      if (turn(a, b, c) * turn(a, b, d) < 0 && turn(c, d, a) * turn(c, d, b) < 0) return true;
    }
  }
  return false;
}

function fresh(kind) {
  const used = new Set(shapes.map((s) => s.name));
  let n = 1;
  while (used.has(`${kind}-${n}`)) n++;
  return `${kind}-${n}`;
}

function add(kind, points) {
  remember();
  shapes.push({ kind, name: fresh(kind), was: null, points: points.map(([x, y]) => [snap(x), snap(y)]) });
  chosen = shapes.length - 1;
  corner = 0;
  draft = null;
  svg.classList.remove("drawing");
  hint(HINT);
  changed();
  editor.querySelectorAll(".shapes input")[chosen]?.select();
}

function begin(kind) {
  draft = { kind, points: [] };
  chosen = null;
  svg.classList.add("drawing");
  hint(kind === "zone"
    ? "Click the corners one after the other; the first one again, or Enter, closes the zone. Enter at once draws one in the middle, Escape gives up."
    : "Click where the line begins and where it ends. Enter at once draws one in the middle, Escape gives up.");
  paint();
  frame.focus();
}

function finish() {
  if (!draft) return;
  const { kind, points } = draft;
  const enough = kind === "zone" ? 3 : 2;
  if (!points.length) add(kind, kind === "zone" ? [[0.35, 0.35], [0.65, 0.35], [0.65, 0.65], [0.35, 0.65]] : [[0.3, 0.5], [0.7, 0.5]]);
  else if (points.length >= enough) add(kind, points);
}

function giveUp() {
  draft = null;
  svg.classList.remove("drawing");
  hint(HINT);
  paint();
}

function removeCorner() {
  const s = shapes[chosen];
  if (!s) return;
  remember();
  if (s.kind === "zone" && s.points.length > 3) s.points.splice(corner, 1);
  else removeShape(chosen, false);
  corner = 0;
  changed();
}

function removeShape(i, alone = true) {
  if (alone) remember();
  shapes.splice(i, 1);
  chosen = null;
  if (alone) changed();
}

// -- the drawing ----------------------------------------------------------------------------------------------------

function make(name, attributes, parent) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (parent) parent.append(node);
  return node;
}

function paint() {
  const focused = svg.contains(document.activeElement);
  const box = svg.getBoundingClientRect();
  const [w, h] = [box.width || 1, box.height || 1];
  svg.setAttribute("viewBox", `0 0 ${w} ${h}`);
  svg.replaceChildren();
  const at = ([x, y]) => [x * w, y * h];
  const text = (points) => points.map((p) => at(p).map((v) => v.toFixed(1)).join(",")).join(" ");
  shapes.forEach((s, i) => {
    const classes = ["shape", s.kind, i === chosen ? "chosen" : "", s.kind === "zone" && crosses(s.points) ? "crossed" : ""];
    const g = make("g", { class: classes.join(" "), "data-shape": i }, svg);
    if (s.kind === "zone") make("polygon", { points: text(s.points) }, g);
    else {
      make("polyline", { points: text(s.points), class: "grip" }, g);
      make("polyline", { points: text(s.points), class: "stroke" }, g);
      arrow(g, at(s.points[0]), at(s.points[1]));
    }
    const [x, y] = at(s.points[0]);
    const label = make("text", { x: Math.min(x + 8, w - 60), y: Math.max(16, y - 8), "font-size": 14 }, g);
    label.textContent = s.name;
  });
  if (chosen !== null && shapes[chosen]) {
    const { points, kind } = shapes[chosen];
    if (kind === "zone") points.forEach((p, k) => {
      const q = points[(k + 1) % points.length];
      const [x, y] = at([(p[0] + q[0]) / 2, (p[1] + q[1]) / 2]);
      make("circle", { cx: x, cy: y, r: 6, class: "between", "data-between": k }, svg);
    });
    points.forEach((p, k) => {
      const [x, y] = at(p);
      const dot = make("circle", {
        cx: x, cy: y, r: 8, class: `corner${k === corner ? " chosen" : ""}`, "data-corner": k, tabindex: 0, role: "button",
        "aria-label": `corner ${k + 1} of ${shapes[chosen].name}`,
      }, svg);
      if (focused && k === corner) dot.focus();
    });
  }
  if (draft) {
    make("polyline", { points: text(draft.points), class: "draft" }, svg);
    draft.points.forEach((p, k) => { const [x, y] = at(p); make("circle", { cx: x, cy: y, r: 7, class: "corner", "data-draft": k }, svg); });
  }
}

function arrow(g, [x1, y1], [x2, y2]) {
  // To the right of the way from the first end to the second is "in".
  const length = Math.hypot(x2 - x1, y2 - y1) || 1;
  const [ux, uy] = [(x2 - x1) / length, (y2 - y1) / length];
  const [rx, ry] = [-uy, ux];
  const [mx, my] = [(x1 + x2) / 2, (y1 + y2) / 2];
  const tip = [mx + rx * 34, my + ry * 34];
  make("line", { x1: mx, y1: my, x2: mx + rx * 24, y2: my + ry * 24, class: "stroke" }, g);
  const side = (k) => `${mx + rx * 22 + ux * k},${my + ry * 22 + uy * k}`;
  make("polygon", { points: `${tip.join(",")} ${side(7)} ${side(-7)}`, class: "arrow" }, g);
  make("text", { x: mx + rx * 46 - 6, y: my + ry * 46 + 5, "font-size": 13 }, g).textContent = "in";
}

function place(event) {
  const box = svg.getBoundingClientRect();
  return [clamp((event.clientX - box.left) / box.width), clamp((event.clientY - box.top) / box.height)];
}

let drag = null;
function down(event) {
  if (event.button) return;
  const p = place(event);
  const target = event.target;
  if (draft) {
    const { points } = draft;
    if (target.dataset.draft === "0" && points.length >= 3) return finish();
    points.push(p);
    if (draft.kind === "line" && points.length === 2) return finish();
    return paint();
  }
  if (target.dataset.corner !== undefined) {
    corner = Number(target.dataset.corner);
    drag = { moves: [shapes[chosen].points[corner]], from: p, before: JSON.stringify(shapes) };
  } else if (target.dataset.between !== undefined) {
    const before = JSON.stringify(shapes);
    corner = Number(target.dataset.between) + 1;
    shapes[chosen].points.splice(corner, 0, p);
    drag = { moves: [shapes[chosen].points[corner]], from: p, before, made: true };
  } else if (target.closest("[data-shape]")) {
    chosen = Number(target.closest("[data-shape]").dataset.shape);
    corner = 0;
    drag = { moves: shapes[chosen].points, from: p, before: JSON.stringify(shapes) };
  } else {
    chosen = null;
  }
  if (drag) {
    drag.origin = drag.moves.map((m) => [...m]);
    svg.setPointerCapture(event.pointerId);
  }
  event.preventDefault();
  paint();
  names();
  svg.querySelector(`[data-corner="${corner}"]`)?.focus();
}

function move(event) {
  if (!drag) return;
  let [dx, dy] = place(event).map((v, i) => v - drag.from[i]);
  // A shape stops at the edge as a whole.
  for (const [x, y] of drag.origin) {
    dx = Math.min(Math.max(dx, -x), 1 - x);
    dy = Math.min(Math.max(dy, -y), 1 - y);
  }
  drag.moves.forEach((m, i) => {
    m[0] = drag.origin[i][0] + dx;
    m[1] = drag.origin[i][1] + dy;
  });
  drag.moved = true;
  paint();
}

function up() {
  if (!drag) return;
  const { moves, before, moved, made } = drag;
  drag = null;
  if (!moved && !made) return;
  for (const m of moves) [m[0], m[1]] = m.map(snap);
  done.push(before);
  undone = [];
  changed();
}

function key(event) {
  if (!svg || event.target.closest("input, pre")) return;
  const control = event.ctrlKey || event.metaKey;
  if (control && event.key.toLowerCase() === "z") back(...(event.shiftKey ? [undone, done] : [done, undone]));
  else if (control && event.key.toLowerCase() === "y") back(undone, done);
  else if (event.key === "Enter" && draft) finish();
  else if (event.key === "Escape") draft ? giveUp() : ((chosen = null), paint(), names());
  else if (event.target.dataset.corner === undefined) return;
  else if (event.key === "Delete" || event.key === "Backspace") removeCorner();
  else if (event.key.startsWith("Arrow")) {
    const step = event.shiftKey ? 0.02 : 0.002;
    const p = shapes[chosen].points[corner];
    remember();
    p[0] = snap(clamp(p[0] + (event.key === "ArrowRight" ? step : event.key === "ArrowLeft" ? -step : 0)));
    p[1] = snap(clamp(p[1] + (event.key === "ArrowDown" ? step : event.key === "ArrowUp" ? -step : 0)));
    changed();
  } else return;
  event.preventDefault();
}

// -- the list -------------------------------------------------------------------------------------------------------

function names() {
  const list = find("shapes");
  if (list.contains(document.activeElement) && document.activeElement.tagName === "INPUT" && list.children.length === shapes.length) {
    [...list.children].forEach((li, i) => li.classList.toggle("chosen", i === chosen));
    return;
  }
  list.replaceChildren(...shapes.map((s, i) => {
    const li = document.createElement("li");
    li.className = `${s.kind}${i === chosen ? " chosen" : ""}`;
    const name = document.createElement("input");
    name.value = s.name;
    name.maxLength = 64;
    name.setAttribute("aria-label", `name of the ${s.kind}`);
    name.onfocus = () => { if (chosen !== i) { chosen = i; corner = 0; paint(); names(); } };
    name.oninput = () => {
      if (!name.noted) { remember(); name.noted = true; }
      s.name = name.value.trim();
      changed();
    };
    name.onblur = () => { name.noted = false; };
    const tools = [[s.kind === "line" ? "Turn" : null, "turn the direction", () => { remember(); s.points.reverse(); changed(); }],
      ["Delete", `delete ${s.name}`, () => removeShape(i)]];
    li.append(s.kind, name, ...tools.filter(([label]) => label).map(([label, aria, act]) => {
      const b = document.createElement("button");
      b.type = "button";
      b.textContent = label;
      b.setAttribute("aria-label", aria);
      b.onclick = act;
      return b;
    }));
    return li;
  }));
}

// -- the tools ------------------------------------------------------------------------------------------------------

const ACTS = {
  async edit() {
    try {
      taken(await ask(base));
    } catch (e) {
      return problem(e.message);
    }
    svg = make("svg", { "data-editing": "" });
    frame.append(svg);
    frame.tabIndex = -1;
    svg.addEventListener("pointerdown", down);
    svg.addEventListener("pointermove", move);
    svg.addEventListener("pointerup", up);
    svg.addEventListener("pointercancel", up);
    svg.addEventListener("focusin", (e) => {
      if (e.target.dataset.corner !== undefined && Number(e.target.dataset.corner) !== corner) {
        svg.querySelector(".corner.chosen")?.classList.remove("chosen");
        e.target.classList.add("chosen");
        corner = Number(e.target.dataset.corner);
      }
    });
    open(true);
    hint(HINT);
    changed();
  },
  zone: () => begin("zone"),
  line: () => begin("line"),
  undo: () => back(done, undone),
  redo: () => back(undone, done),
  close() {
    if (started.file && done.length && !confirm("What was drawn is not saved. Close it all the same?")) return;
    svg.remove();
    svg = null;
    draft = null;
    open(false);
  },
  async copy() {
    try {
      await navigator.clipboard.writeText(find("yaml").querySelector("code").textContent);
      said("copied");
    } catch {
      getSelection().selectAllChildren(find("yaml").querySelector("code"));
      said("it is selected: press Ctrl+C");
    }
  },
  download() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([find("yaml").querySelector("code").textContent], { type: "application/yaml" }));
    link.download = started.file || `${card.dataset.stream}.yaml`;
    link.click();
    URL.revokeObjectURL(link.href);
  },
  async save() {
    const lost = find("yaml").dataset.lost;
    if (lost && !confirm("The comments of the file will be lost. Save it all the same?")) return;
    try {
      const answer = await ask(`${base}/save`, { shapes: drawn(), base: started.base });
      taken(answer);
      if (svg) changed(); // it may be closed meanwhile
      said(`Saved in ${answer.file}; the version before is ${answer.backup}. ${answer.applied ?? "It holds from the next start on."}`);
    } catch (e) {
      problem(e.message);
    }
  },
};

function open(on) {
  card.dispatchEvent(new CustomEvent("plain", { detail: on }));
  button("edit").hidden = on;
  for (const what of ["zone", "line", "undo", "redo", "close"]) button(what).hidden = !on;
  for (const what of ["hint", "shapes", "yaml"]) find(what).hidden = !on;
  button("save").hidden = !(on && started?.file);
  button("save").classList.toggle("main", true);
  find("file").textContent = started?.file || "YAML";
  problem("");
  said("");
}

editor.addEventListener("click", (e) => ACTS[e.target.dataset.do]?.());
document.addEventListener("keydown", key);
new ResizeObserver(() => svg && paint()).observe(frame);
window.addEventListener("beforeunload", (e) => { if (svg && done.length) e.preventDefault(); });
