"use strict";
// Keeps a page current: pictures of all streams over one connection, numbers and events over a second one.

const streams = new Map(); // name -> card
for (const card of document.querySelectorAll("[data-stream]")) {
  streams.set(card.dataset.stream, {
    card,
    canvas: card.querySelector("canvas"),
    badge: card.querySelector("[data-age]"),
    absence: card.querySelector("[data-absence]"),
    why: null, // why there is no picture: a short line, and more
    running: false,
    visible: false,
    waiting: null, // the newest picture that is not drawn yet
    drawing: false,
    shownAt: 0, // performance.now()
    ageMs: 0, // of the picture when it was shown
  });
}

// -- pictures -------------------------------------------------------------------------------------------------------

let reading = null; // AbortController of the connection
let shown = ""; // what it shows
let retry = 0;

function wanted() {
  if (document.hidden) return "";
  const found = [];
  for (const [name, s] of streams) {
    if (!s.canvas || !s.visible) continue;
    const pixels = Math.ceil(s.canvas.parentElement.clientWidth * Math.min(window.devicePixelRatio || 1, 2));
    found.push(`${name}:${[320, 640, 960, 1280, 1920].find((w) => w >= pixels) || 1920}${s.plain ? ":plain" : ""}`);
  }
  return found.join(",");
}

let due = 0;
function look(afterMs = 150) {
  clearTimeout(due);
  due = setTimeout(() => {
    const now = wanted();
    if (now === shown && reading) return;
    if (reading) reading.abort();
    reading = null;
    shown = now;
    if (now) read(now);
  }, afterMs);
}

async function read(show) {
  const mine = (reading = new AbortController());
  try {
    const answer = await fetch(`/pictures?show=${encodeURIComponent(show)}`, { signal: mine.signal });
    if (!answer.ok) throw new Error((await answer.json()).error);
    retry = 0;
    const source = answer.body.getReader();
    let pieces = [], size = 0;
    // Length of the head and of the JPEG (32 bit, big endian), the head as JSON, the JPEG.
    const take = async (bytes) => {
      while (size < bytes) {
        const { done, value } = await source.read();
        if (done) throw new Error("the stream has ended");
        pieces.push(value);
        size += value.length;
      }
      const all = pieces.length === 1 ? pieces[0] : new Uint8Array(await new Blob(pieces).arrayBuffer());
      pieces = [all.subarray(bytes)];
      size -= bytes;
      return all.subarray(0, bytes);
    };
    for (;;) {
      const lengths = await take(8);
      const view = new DataView(lengths.buffer, lengths.byteOffset, 8);
      const [head, jpeg] = [view.getUint32(0), view.getUint32(4)];
      const about = JSON.parse(new TextDecoder().decode(await take(head)));
      show_(about, await take(jpeg));
    }
  } catch (e) {
    if (mine.signal.aborted) return;
    say(e.message, true);
    reading = null;
    retry = Math.min(retry + 1, 5);
    look(400 * 2 ** retry * (0.75 + Math.random() / 2));
  }
}

function show_(about, jpeg) {
  const s = streams.get(about.stream);
  if (!s) return;
  s.waiting = { about, blob: new Blob([jpeg], { type: "image/jpeg" }) };
  if (!s.drawing) draw(s);
}

async function draw(s) {
  s.drawing = true;
  while (s.waiting) {
    const { about, blob } = s.waiting;
    s.waiting = null;
    try {
      const picture = await createImageBitmap(blob);
      if (s.canvas.width !== picture.width || s.canvas.height !== picture.height) {
        s.canvas.width = picture.width;
        s.canvas.height = picture.height;
        s.canvas.parentElement.classList.add("sized");
        s.card.dispatchEvent(new CustomEvent("sized"));
      }
      s.canvas.getContext("2d").drawImage(picture, 0, 0);
      picture.close();
      s.shownAt = performance.now();
      s.ageMs = about.age_ms;
      s.seq = about.seq;
      s.timeS = about.time_s;
      if (!s.painted) { s.painted = true; performance.mark(`picture:${about.stream}`); }
    } catch {
      // a picture that cannot be read: the next one comes
    }
  }
  s.drawing = false;
}

function ages() {
  for (const s of streams.values()) {
    if (!s.shownAt) continue;
    const age = s.ageMs + performance.now() - s.shownAt;
    const clock = s.timeS === null ? "" : `${clockOf(s.timeS, true)} · `;
    s.badge.hidden = false;
    s.badge.textContent = `${clock}${age < 995 ? `${Math.round(age)} ms old` : `${age < 120000 ? `${(age / 1000).toFixed(1)} s` : lasting(age / 1000)} old`}`;
    s.badge.classList.toggle("late", age > 1500);
    s.canvas.parentElement.classList.toggle("old", age > 5000);
  }
  for (const s of streams.values()) absent(s);
}

// In place of a picture, or over one that is old: why there is none.
function absent(s) {
  if (!s.canvas || !s.why) return;
  const age = s.shownAt ? s.ageMs + performance.now() - s.shownAt : Infinity;
  s.absence.hidden = s.shownAt ? age <= 5000 : s.running;
  // what was drawn in place of the first picture
  s.card.querySelector(".frame img")?.remove();
  if (s.absence.hidden) return;
  const [short, more] = s.why;
  s.absence.firstElementChild.textContent = short;
  s.absence.lastElementChild.textContent = s.shownAt ? `this picture is ${lasting(age / 1000)} old` : more ?? "";
}

function lasting(s) {
  if (s < 120) return `${Math.round(s)} s`;
  return s < 7200 ? `${Math.round(s / 60)} min` : `${Math.round(s / 3600)} h`;
}
setInterval(ages, 250);

// -- numbers --------------------------------------------------------------------------------------------------------

const ms = (value) => (value === null || value === undefined ? "–" : value < 100 ? value.toFixed(1) : value.toFixed(0));
const count = (value) => value.toLocaleString("en");

function clockOf(timeS, tenths = false) {
  const d = new Date(timeS * 1000);
  const two = (n) => String(n).padStart(2, "0");
  return `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}${tenths ? `.${Math.floor(d.getMilliseconds() / 100)}` : ""}`;
}

function numbers(message) {
  document.getElementById("clock").textContent = clockOf(message.time_s);
  for (const about of message.streams) {
    const s = streams.get(about.name);
    if (!s) continue;
    s.why = about.absence;
    s.running = !about.live || about.live.state === "running";
    if (!about.live) continue;
    const { live } = about;
    const put = (what, text) => { s.card.querySelector(`[data-${what}]`).textContent = text; };
    const total = live.stages.find((t) => t.stage === "glass_to_event") || live.stages.find((t) => t.stage === "avail_to_event") || {};
    put("state", live.reason ? `${live.state}: ${live.reason}` : live.state);
    s.card.querySelector("[data-state]").classList.toggle("bad", live.state !== "running" && live.state !== "ended");
    put("fps", live.fps.toFixed(1));
    for (const p of ["p50", "p95", "p99"]) put(p, total[p] === null || total[p] === undefined ? "–" : `${ms(total[p])} ms`);
    put("frames", count(live.frames.processed));
    const causes = Object.entries(live.frames.dropped).sort((a, b) => b[1] - a[1]);
    put("drops", causes.length ? `dropped: ${causes.map(([cause, n]) => {
      const lately = live.dropped_lately[cause];
      return `${count(n)} ${cause}${lately ? ` (${count(lately)} lately)` : ""}`;
    }).join(", ")}${live.errors ? ` · ${count(live.errors)} engine errors` : ""}` : "");
    put("releases", Object.entries(live.releases).map(([part, release]) => `${part} ${release} · `).join(""));
    const rows = document.querySelector("[data-stages]");
    if (rows) rows.replaceChildren(...live.stages.map((t) => {
      const row = document.createElement("tr");
      for (const cell of [t.stage, count(t.n), ms(t.p50), ms(t.p95), ms(t.p99), ms(t.max)]) row.insertCell().textContent = cell;
      return row;
    }));
  }
}

// -- events ---------------------------------------------------------------------------------------------------------

const list = document.querySelector("[data-events]");
const KNOWN = new Set(["id", "type", "stream", "seq", "t_s", "time", "clock", "phase", "rule", "latency_ms", "number", "snapshot", "top_score", "anchor"]);
const empty = (value) => value === null || (typeof value === "object" && !Object.keys(value).length);

function happened(events) {
  for (const event of events) {
    if (!streams.has(event.stream)) continue;
    const old = list.querySelector(`[data-event="${CSS.escape(event.id)}"][data-of="${CSS.escape(event.stream)}"]`);
    const entry = entryOf(event);
    if (old) old.replaceWith(entry);
    else list.prepend(entry);
  }
  for (const of of [".object", ":not(.object)"]) {
    for (const old of [...list.querySelectorAll(`:scope > li${of}`)].slice(40)) old.remove();
  }
}

function entryOf(event) {
  const li = document.createElement("li");
  li.dataset.event = event.id;
  li.dataset.of = event.stream;
  li.classList.toggle("object", event.type === "tracked_object");
  if (event.snapshot) {
    const link = document.createElement("a");
    link.href = `/streams/${encodeURIComponent(event.stream)}/snapshots/${encodeURIComponent(event.id)}.jpg`;
    const img = document.createElement("img");
    img.src = link.href;
    img.alt = `picture of ${event.type}`;
    img.loading = "lazy";
    link.append(img);
    li.append(link);
  }
  const what = document.createElement("b");
  what.textContent = [event.type, event.rule, event.phase].filter(Boolean).join(" ");
  const when = document.createElement("time");
  when.textContent = event.time === null ? `${event.t_s.toFixed(1)} s` : clockOf(event.time, true);
  const rest = document.createElement("span");
  const decided = Object.entries(event.attributes ?? {}).map(([part, found]) => [part, found.value]);
  const told = [...Object.entries(event).filter(([key]) => key !== "attributes"), ...decided];
  const more = told.filter(([key, value]) => !KNOWN.has(key) && !empty(value)).map(([key, value]) => (key === "because" ? `because ${reason(value)}` : `${key} ${short(value)}`));
  rest.textContent = [event.stream, ...more].join(" · ");
  li.append(what, when, rest);
  return li;
}

// what was asked, what was measured, and the limit: "stayed 7.09 s (limit 4 s)"
function reason({ what, value, limit, unit }) {
  if (typeof value !== "number") return String(what);
  const of = (number) => [short(number), unit].filter(Boolean).join(" ");
  return `${what} ${of(value)}${typeof limit === "number" ? ` (limit ${of(limit)})` : ""}`;
}

function short(value) {
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : value.toPrecision(3);
  if (Array.isArray(value)) return `(${value.map(short).join(", ")})`;
  if (value && typeof value === "object") return Object.entries(value).map(([k, v]) => `${k}: ${short(v)}`).join(", ");
  return String(value);
}

const objects = document.querySelector("[data-objects]");
objects.onchange = () => list.classList.toggle("few", !objects.checked);

function say(text, lost) {
  const connection = document.getElementById("connection");
  connection.textContent = text;
  connection.classList.toggle("lost", lost);
}

list.replaceChildren(); // the server's own clock made these; all of them come again
const heard = new EventSource("/events");
heard.onopen = () => { say("connected", false); list.replaceChildren(); };
heard.onerror = () => say("connection lost, trying again …", true);
heard.addEventListener("numbers", (e) => numbers(JSON.parse(e.data)));
heard.addEventListener("happened", (e) => happened(JSON.parse(e.data)));

const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) streams.get(entry.target.closest("[data-stream]").dataset.stream).visible = entry.isIntersecting;
  look(shown ? 150 : 0);
}, { rootMargin: "100px" });
// Who draws zones wants the picture without those that are in force.
for (const s of streams.values()) s.card.addEventListener("plain", (e) => { s.plain = e.detail; look(0); });
for (const s of streams.values()) if (s.canvas) watcher.observe(s.canvas.parentElement);
document.addEventListener("visibilitychange", () => look());
window.addEventListener("resize", () => look(400));
