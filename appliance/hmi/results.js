// The Results page: what was judged, newest first, filtered; one result in full beside or instead of the list.

import { Problem, getJson, imagePath, withQuery } from "./api.js";
import { VERDICTS, badge, h, options, setText } from "./dom.js";
import { classBars, jsonBlock, pictureBlock, resultFacts, verdictBlock } from "./findings.js";
import { moment } from "./time.js";
import { finding, number, spent_ms } from "./words.js";

const PAGE = 50;
const COLUMNS = ["Verdict", "Time", "Part", "Lot", "Source", "Found", "ms"];
const REFRESH_MS_MIN = 1000;

export function resultsPage(root) {
  const filters = {
    verdict: h("select", { name: "verdict" }),
    source: h("select", { name: "source" }),
    model: h("select", { name: "model" }),
    part: h("input", { name: "part", type: "search", autocomplete: "off", placeholder: "any" }),
    lot: h("input", { name: "lot", type: "search", autocomplete: "off", placeholder: "any" }),
  };
  const labels = { verdict: "Verdict", source: "Source", model: "Model", part: "Part", lot: "Lot" };
  const form = h(
    "form",
    { class: "filters", role: "search", "aria-label": "Filter results" },
    Object.entries(filters).map(([name, field]) => {
      field.setAttribute("aria-label", labels[name]);
      return h("label", {}, h("span", {}, labels[name]), field);
    }),
    h("button", { type: "reset", class: "button" }, "Clear"),
  );
  const fresh = h("button", { type: "button", class: "button fresh", hidden: true });
  const body = h("tbody", {});
  const table = h(
    "table",
    { class: "results" },
    h("thead", {}, h("tr", {}, COLUMNS.map((name) => h("th", { scope: "col" }, name)))),
    body,
  );
  const message = h("p", { class: "empty", hidden: true });
  const more = h("button", { type: "button", class: "button", hidden: true }, "Load more");
  const list = h("div", { class: "list" }, form, fresh, table, message, more);
  const detail = h("div", { class: "detail", hidden: true });
  root.append(list, detail);

  let nextBefore = null;
  let paged = false; // Further pages were loaded: new results wait behind a button; no row moves under a finger.
  let newCount = 0;
  let loadedAt = 0;
  let timer = null;
  let asked = 0;
  let shownId = null;
  let known = false;
  let listScroll = 0;

  options(filters.verdict, [["", "any"], ...Object.entries(VERDICTS)], "");
  options(filters.source, [["", "any"]], "");
  options(filters.model, [["", "any"]], "");

  const chosen = () => Object.fromEntries(Object.entries(filters).map(([name, field]) => [name, field.value.trim()]));
  const matches = (result) => Object.entries(chosen()).every(([name, value]) => !value || result[name] === value);

  async function load() {
    asked += 1;
    const mine = asked;
    loadedAt = performance.now();
    try {
      const answer = await getJson(withQuery("/v1/results", { ...chosen(), limit: PAGE }));
      if (mine !== asked) return;
      paged = false;
      newCount = 0;
      fresh.hidden = true;
      body.replaceChildren(...answer.results.map(row));
      follow(answer);
      say(answer.results.length ? "" : "No result matches.");
    } catch (error) {
      if (mine === asked) say(problemText(error));
    }
  }

  async function loadMore() {
    more.disabled = true;
    const mine = asked;
    try {
      const answer = await getJson(withQuery("/v1/results", { ...chosen(), limit: PAGE, before_id: nextBefore }));
      if (mine !== asked) return;
      paged = true;
      body.append(...answer.results.map(row));
      follow(answer);
    } catch (error) {
      say(problemText(error));
    } finally {
      more.disabled = false;
    }
  }

  function follow(answer) {
    nextBefore = answer.next_before_id;
    more.hidden = nextBefore === null || nextBefore === undefined;
  }

  function say(text) {
    setText(message, text);
    message.hidden = !text;
  }

  function row(result) {
    const spent = spent_ms(result);
    const line = h(
      "tr",
      { "data-id": String(result.id), class: result.id === shownId ? "chosen" : null },
      h("td", { class: "col-verdict" }, badge(result.verdict)),
      h("td", { class: "col-time" }, h("a", { href: `#results/${result.id}` }, moment(result.at))),
      h("td", { class: "col-part" }, result.part || ""),
      h("td", { class: "col-lot" }, result.lot || ""),
      h("td", { class: "col-source" }, result.source),
      h("td", { class: "col-found" }, finding(result)),
      h("td", { class: "col-ms" }, spent === null ? "" : number(spent)),
    );
    line.addEventListener("click", () => {
      if (!String(window.getSelection())) window.location.hash = `results/${result.id}`;
    });
    return line;
  }

  /** New rows come in by themselves only while nobody is reading further down, choosing, or holding a row. */
  function mayMove() {
    const reading = paged || shownId !== null || list.getBoundingClientRect().top < 0;
    return !reading && !body.contains(document.activeElement);
  }

  function refreshSoon() {
    if (timer !== null) return;
    timer = setTimeout(() => {
      timer = null;
      if (root.hidden) return;
      if (mayMove()) load();
      else offer();
    }, Math.max(0, loadedAt + REFRESH_MS_MIN - performance.now()));
  }

  function offer() {
    setText(fresh, `Show ${newCount} new`);
    fresh.hidden = newCount === 0;
  }

  async function showDetail(id) {
    const main = document.getElementById("main");
    if (shownId === null && id !== null) listScroll = main.scrollTop;
    const returning = shownId !== null && id === null;
    shownId = id;
    for (const line of body.children) line.classList.toggle("chosen", Number(line.dataset.id) === id);
    root.classList.toggle("has-detail", id !== null);
    detail.hidden = id === null;
    if (returning) main.scrollTop = listScroll;
    if (id === null) return;
    if (getComputedStyle(list).display === "none") main.scrollTop = 0;
    const back = h("a", { href: "#results", class: "button" }, "Back to the list");
    detail.replaceChildren(back, h("p", { class: "empty" }, "Loading"));
    try {
      const result = await getJson(`/v1/results/${id}`);
      if (shownId !== id) return;
      detail.replaceChildren(
        back,
        verdictBlock(result),
        result.has_image ? pictureBlock(imagePath(result), result) : "",
        classBars(result),
        resultFacts(result),
        result.has_image ? pictureLinks(result) : "",
        jsonBlock(result),
      );
      back.focus({ preventScroll: false });
    } catch (error) {
      if (shownId === id) detail.replaceChildren(back, h("p", { class: "empty" }, problemText(error)));
    }
  }

  const reload = () => load();
  let typing = null;
  form.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(reload, 250);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    reload();
  });
  form.addEventListener("reset", () => setTimeout(reload, 0));
  fresh.addEventListener("click", () => {
    document.getElementById("main").scrollTop = 0;
    load();
  });
  more.addEventListener("click", loadMore);

  return {
    onResult(result) {
      addOption(filters.source, result.source);
      if (root.hidden || !matches(result)) return;
      newCount += 1;
      refreshSoon();
    },

    onStatus(status) {
      if (known) return;
      known = true;
      for (const model of status.models) addOption(filters.model, model.name);
    },

    async load() {
      const { sources } = await getJson("/v1/sources");
      for (const { source } of sources) addOption(filters.source, source);
      if (!root.hidden) await load();
    },

    show(id) {
      const number = /^[0-9]+$/.test(id || "") ? Number(id) : null;
      const wasList = shownId !== null && number === null;
      if (!wasList && (number === null || body.children.length === 0)) load();
      showDetail(number);
    },
  };
}

function pictureLinks(result) {
  const link = (href, text) => h("a", { href, target: "_blank", rel: "noopener" }, text);
  const path = imagePath(result);
  return h("p", { class: "links" }, link(path, "Picture as it came"), link(`${path}?drawn=1`, "Picture with findings"));
}

function addOption(select, value) {
  if ([...select.options].some((option) => option.value === value)) return;
  select.append(h("option", { value }, value));
}

export function problemText(error) {
  if (error instanceof Problem) return error.status ? `${error.message} (${error.code})` : error.message;
  throw error;
}
