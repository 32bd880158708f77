// Starts the page: which panel is shown, what is wrong, and the box's events handed to every panel.

import { showAlarms } from "./alarms.js";
import { follow } from "./api.js";
import { boxPage } from "./box.js";
import { h, setText } from "./dom.js";
import { livePage } from "./live.js";
import { recipePage, showRecipe } from "./recipe.js";
import { resultsPage } from "./results.js";
import { boxNow, moment, span, timeOfDay } from "./time.js";
import { tryPage } from "./try.js";
import { updatesPage } from "./updates.js";

document.documentElement.setAttribute("data-started", "");

const byId = (id) => document.getElementById(id);
// The panels' ids differ from the addresses (#live), or the browser would take the focus there by itself.
const panelOf = (name) => byId(`panel-${name}`);
const pages = {
  live: livePage(panelOf("live")),
  results: resultsPage(panelOf("results")),
  try: tryPage(panelOf("try")),
  box: boxPage(panelOf("box")),
  updates: updatesPage(panelOf("updates")),
  recipe: recipePage(panelOf("recipe")),
};

const NO_STREAM =
  "The box gives this page no live events (too many screens may be open): it asks every few seconds instead.";

let downSince = undefined; // undefined: the box answers; null: it never has.
let downFrom = 0;
let status = null;
let streaming = true;

function route() {
  const [name, argument] = window.location.hash.slice(1).split("/");
  const chosen = pages[name] ? name : "live";
  const main = byId("main");
  for (const id of Object.keys(pages)) {
    const panel = panelOf(id);
    const leaving = !panel.hidden && id !== chosen;
    panel.hidden = id !== chosen;
    if (leaving && pages[id].hide) pages[id].hide();
    if (leaving) main.scrollTop = 0;
  }
  for (const link of document.querySelectorAll(".head a")) {
    if (link.getAttribute("href") === `#${chosen}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.body.dataset.page = chosen;
  pages[chosen].show(argument ? decodeURIComponent(argument) : null);
}

function showDown() {
  const down = byId("down");
  document.body.classList.toggle("is-down", downSince !== undefined);
  down.hidden = downSince === undefined;
  if (downSince === undefined) return;
  const lasting = span((performance.now() - downFrom) / 1000);
  setText(
    down,
    downSince === null
      ? `The box has not answered since this page was opened (${lasting}).`
      : `The box has not answered since ${moment(downSince)} (${lasting}). What is shown is old.`,
  );
}

function showProblems() {
  const list = byId("problems");
  const alarms = status ? status.alarms : [];
  showAlarms(byId("alarms"), alarms);
  const told = new Set(alarms.map((alarm) => alarm.kind)); // Nothing is said twice.
  const problems = status ? status.problems.filter(({ code }) => !told.has(code)).map(({ message }) => message) : [];
  if (!streaming) problems.push(NO_STREAM);
  const text = problems.join("\n");
  list.hidden = problems.length === 0;
  if (list.dataset.text === text) return; // Said once: a screen reader need not hear it every beat.
  list.dataset.text = text;
  list.replaceChildren(...problems.map((problem) => h("li", {}, problem)));
}

function showLink() {
  const word = downSince !== undefined ? "No answer" : status === null ? "Connecting" : "Connected";
  const link = byId("link");
  link.setAttribute("aria-label", word);
  link.title = word;
  link.className = `link-dot ${word === "Connected" ? "up" : ""}`;
}

async function loadAll() {
  for (const page of Object.values(pages)) {
    // One panel that fails to load leaves the others; the banner says when the box is away.
    page.load().catch((error) => console.warn(error.message));
  }
}

function onStatus(fresh, live) {
  if (status && status.version !== fresh.version) {
    window.location.reload(); // The box was updated: this page may speak an older tongue.
    return;
  }
  const restarted = status !== null && status.started_at !== fresh.started_at;
  status = fresh;
  streaming = live;
  setText(byId("device"), fresh.device);
  document.title = `${fresh.device}: parts judged here`;
  for (const page of Object.values(pages)) page.onStatus(fresh);
  showProblems();
  showRecipe(byId("recipe"), fresh.recipe);
  showLink();
  if (restarted) pages.live.forget();
  if (!live) loadAll();
}

function tick() {
  const clock = byId("clock");
  if (status) setText(clock, timeOfDay(boxNow()));
  showDown();
  pages.live.tick();
}

follow({
  onLatest(result, trace) {
    pages.live.onLatest(result, trace);
  },
  onResult(result, trace) {
    for (const page of Object.values(pages)) page.onResult(result, trace);
  },
  onStatus,
  onOpen: loadAll,
  onDown(since) {
    downSince = since;
    downFrom = since === null ? 0 : performance.now() - (boxNow() - since) * 1000;
    showDown();
    showLink();
  },
  onUp() {
    downSince = undefined;
    showDown();
    showLink();
  },
});

window.addEventListener("hashchange", route);
window.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (window.location.hash.startsWith("#live/")) window.location.hash = "live";
  if (window.location.hash.startsWith("#results/")) window.location.hash = "results";
});
const dark = window.matchMedia("(prefers-color-scheme: dark)");
if (dark.addEventListener) dark.addEventListener("change", () => pages.live.redraw());
setInterval(tick, 1000);
route();
tick();
