"use strict";
// Keeps a page current (one stream a page, closed while nobody looks), and asks in a dialog what a page would ask.
// Without this script every page works, and every act has a page of its own that asks.

const status = document.getElementById("connection");
const live = document.body.dataset.live;
let source = null;
let again = 0;

function told(text, lost) {
  if (!status || status.textContent === text) return;
  status.textContent = text;
  status.classList.toggle("lost", Boolean(lost));
}

// Where the keyboard is, in words that hold after an element was replaced.
function placeOf(element) {
  if (element.id) return `#${CSS.escape(element.id)}`;
  const href = element.getAttribute("href");
  if (href) return `${element.localName}[href="${CSS.escape(href)}"]`;
  return element.getAttribute("aria-labelledby") ? `[aria-labelledby="${CSS.escape(element.getAttribute("aria-labelledby"))}"]` : null;
}

// What a part says in a sentence is read out when it has changed, and only then.
const said = new Map();
for (const e of document.querySelectorAll("[data-says]")) said.set(e.closest(".part").id, e.dataset.says);

function announce(part) {
  const text = part.querySelector("[data-says]")?.dataset.says;
  if (!text || said.get(part.id) === text) return;
  said.set(part.id, text);
  document.getElementById("news").textContent = text;
}

function swap(id, { html, tag }) {
  const part = document.getElementById(`part-${id}`);
  if (!part || part.dataset.tag === tag) return;
  const focused = part.contains(document.activeElement) ? placeOf(document.activeElement) : null;
  const scrolled = [...part.querySelectorAll(".scroll")].map((e) => e.scrollLeft);
  const made = new DOMParser().parseFromString(html, "text/html");
  part.replaceChildren(...made.body.childNodes);
  part.dataset.tag = tag;
  part.querySelectorAll(".scroll").forEach((e, i) => (e.scrollLeft = scrolled[i] || 0));
  if (focused) part.querySelector(focused)?.focus({ preventScroll: true });
  announce(part);
}

function follow() {
  clearTimeout(again);
  if (!live || source || document.hidden) return;
  told("connecting …");
  source = new EventSource(live);
  source.addEventListener("open", () => told("live"));
  source.addEventListener("parts", (event) => {
    told("live");
    for (const [id, part] of Object.entries(JSON.parse(event.data))) swap(id, part);
    document.body.dataset.updated = String(Date.now());
  });
  source.addEventListener("gone", (event) => {
    leave();
    told(JSON.parse(event.data), true);
    again = setTimeout(follow, 10000);
  });
  source.addEventListener("error", () => {
    told("not connected: what is shown is old", true);
    // the browser tries again by itself, unless it was refused
    if (source && source.readyState === EventSource.CLOSED) {
      leave();
      again = setTimeout(follow, 10000);
    }
  });
}

function leave() {
  if (source) source.close();
  source = null;
}

document.addEventListener("visibilitychange", () => (document.hidden ? leave() : follow()));
addEventListener("pagehide", leave);
addEventListener("pageshow", follow);
follow();

// -- acts -----------------------------------------------------------------------------------------------------------

const dialog = document.getElementById("ask");
let asking = null;

async function ask(link) {
  const answer = await fetch(link.href, { headers: { accept: "text/html" } });
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const form = page.querySelector("form[data-asks]");
  if (!form) return location.assign(link.href); // signed out, or it is not possible: that page says so
  form.setAttribute("action", link.getAttribute("href").split("?")[0]);
  const title = form.querySelector("h1");
  const heading = document.createElement("h2");
  heading.id = title.id;
  heading.textContent = title.textContent;
  title.replaceWith(heading);
  dialog.replaceChildren(document.importNode(form, true));
  asking = placeOf(link);
  dialog.showModal();
}

document.addEventListener("click", (event) => {
  if (event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
  const link = event.target.closest("a[data-ask]");
  if (link && dialog) {
    event.preventDefault();
    ask(link).catch(() => location.assign(link.href));
  } else if (event.target.closest("#ask [data-cancel]")) {
    event.preventDefault();
    dialog.close();
  }
});
dialog?.addEventListener("close", () => {
  dialog.replaceChildren();
  if (asking) document.querySelector(asking)?.focus();
  asking = null;
});
// a second press of the button is no second act
document.addEventListener("submit", (event) => {
  if (event.target.dataset.sent) event.preventDefault();
  event.target.dataset.sent = "yes";
});
addEventListener("pageshow", () => document.querySelectorAll("form[data-sent]").forEach((f) => delete f.dataset.sent));
