// The Recipe page: what runs, what can run, and a change that is asked for twice before it is made.

import { getJson, put } from "./api.js";
import { ask, question } from "./ask.js";
import { h, options } from "./dom.js";
import { TRY_SOURCE } from "./live.js";
import { moment } from "./time.js";

const NONE = "";
const CHANGES = 12;

export function recipePage(root) {
  const now = h("div", { class: "tile recipe-now", "aria-live": "polite" });
  const where = h("select", { "aria-label": "Where" });
  const choices = h("div", { class: "choices", role: "radiogroup", "aria-label": "Recipe" });
  const by = h("input", { "aria-label": "Your name", autocomplete: "name", maxlength: "128", placeholder: "optional" });
  const change = h("button", { type: "button", class: "button primary" });
  const confirm = h("div", { hidden: true });
  const said = h("p", { class: "banner problem", role: "alert", hidden: true });
  const changes = h("div", { class: "tile recipe-changes" });
  root.append(
    h("div", { class: "recipe-side" }, now, changes),
    h(
      "div",
      { class: "tile recipe-change" },
      h("h2", {}, "Change the recipe"),
      said,
      h("label", { class: "field" }, h("span", {}, "Where"), where),
      choices,
      h("label", { class: "field" }, h("span", {}, "Your name"), by),
      change,
      confirm,
    ),
  );
  let report = null;
  let sources = [];
  let picked = null;
  let askedOf = ""; // What ran when the question was asked.
  let told = ""; // What the page shows, so that a beat without news moves nothing under a finger.

  const name = (recipe) => recipe || (where.value ? "as the box" : "no recipe");
  const runs = () => (where.value ? report.sources[where.value] : report.recipe) || NONE;

  function paint() {
    if (report === null) return;
    if (!confirm.hidden && JSON.stringify(report) === askedOf) return; // A new source does not take the question away.
    const text = JSON.stringify([report, sources]);
    if (text === told) return;
    told = text;
    const chosen = where.value;
    const all = [...new Set([...sources, ...Object.keys(report.sources)])].sort();
    options(where, [["", "The whole box"], ...all.map((source) => [source, `Only ${source}`])], chosen);
    paintNow();
    paintChoices();
    loadChanges();
  }

  function paintNow() {
    const own = Object.entries(report.sources);
    now.replaceChildren(
      h("h2", {}, "Runs now"),
      h("p", { class: "recipe-name" }, report.recipe || "No recipe"),
      h("p", { class: "tile-text" }, report.since ? `since ${moment(report.since)}` : "Nobody has chosen one yet."),
      ...own.map(([source, recipe]) => h("p", { class: "recipe-own" }, `${source} runs `, h("strong", {}, recipe))),
    );
  }

  function paintChoices() {
    if (picked === null) picked = runs();
    const each = (value, title, about) => {
      const radio = h("input", { type: "radio", name: "recipe", value, checked: value === picked });
      radio.addEventListener("change", () => {
        picked = value;
        paintChange();
      });
      const mark = value === runs() ? h("span", { class: "chip good" }, "runs") : null;
      return h(
        "label",
        { class: "choice" },
        radio,
        h("span", { class: "choice-text" }, h("strong", {}, title), h("span", {}, about)),
        mark,
      );
    };
    const none = where.value
      ? each(NONE, "As the box", report.recipe ? `which runs ${report.recipe}` : "which runs no recipe")
      : each(NONE, "No recipe", "the limits of models and routes");
    choices.replaceChildren(...report.known.map((known) => each(known.name, known.name, known.about)), none);
    paintChange();
  }

  function paintChange() {
    confirm.hidden = true;
    change.hidden = false;
    change.disabled = picked === runs();
    change.textContent = change.disabled ? "Choose another recipe" : `Change to ${name(picked)}`;
  }

  function askFirst() {
    const place = where.value || "the whole box";
    change.hidden = true;
    confirm.hidden = false;
    askedOf = JSON.stringify(report);
    ask(
      confirm,
      question({
        title: `Change ${place} from ${name(runs())} to ${name(picked)}?`,
        about: "Every part from the next one on is judged by it.",
        yes: "Yes, change",
        onYes: send,
        onNo() {
          paintChange();
          change.focus();
        },
      }),
    );
  }

  async function send() {
    say("");
    try {
      await put("/v1/recipe", { recipe: picked || null, source: where.value || null, by: by.value.trim() || null });
      report = await getJson("/v1/recipe");
      picked = null;
      paint();
      paintChange();
    } catch (error) {
      say(error.message);
      paintChange();
    }
  }

  function say(text) {
    said.textContent = text;
    said.hidden = !text;
  }

  async function loadChanges() {
    const answer = await getJson(`/v1/recipe/changes?limit=${CHANGES}`);
    changes.replaceChildren(
      h("h2", {}, "Last changes"),
      answer.changes.length
        ? h("ul", { class: "changes" }, answer.changes.map(row))
        : h("p", { class: "tile-text" }, "There were none."),
    );
  }

  function row(each) {
    const from = each.door === "mqtt" ? `MQTT client ${each.client}` : each.client;
    return h(
      "li",
      {},
      h("span", { class: "change-time" }, moment(each.at)),
      h("strong", {}, each.new || (each.source ? "as the box" : "no recipe")),
      h(
        "span",
        { class: "tile-text" },
        `${each.source ? `on ${each.source}, ` : ""}before: ${each.old || "none"}; ${each.by ? `${each.by}, ` : ""}${from}`,
      ),
    );
  }

  where.addEventListener("change", () => {
    picked = null;
    paintChoices();
  });
  change.addEventListener("click", askFirst);

  return {
    onResult(result) {
      if (result.source === TRY_SOURCE || sources.includes(result.source)) return;
      sources = [...sources, result.source];
      if (!root.hidden) paint();
    },
    onStatus(status) {
      report = status.recipe;
      if (!root.hidden) paint();
    },
    async load() {
      const answer = await getJson("/v1/sources");
      sources = answer.sources.map((each) => each.source).filter((source) => source !== TRY_SOURCE);
      if (!root.hidden) paint();
    },
    show: paint,
    hide() {
      say("");
      picked = null;
      told = "";
    },
  };
}

/** The link in the head that says what runs; nothing where there are no recipes. */
export function showRecipe(link, report) {
  const own = Object.keys(report.sources).length;
  link.hidden = !report.known.length && !report.recipe && !own;
  const text = `${report.recipe || "none"}${own ? ` (+${own})` : ""}`;
  link.replaceChildren(h("span", { class: "recipe-word" }, "Recipe "), h("strong", {}, text));
  link.title = own ? `${own} of the sources run another recipe` : "Change the recipe";
}
