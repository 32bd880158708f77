// A roll-out in figures: what goes on, what was seen of each new version, and what the box makes of it.

import { badge, h } from "./dom.js";
import { moment, span } from "./time.js";
import { number, percent } from "./words.js";

const DIFFERENCES = 5; // On the page; /v1/rollouts/{id} has more.
const UNKNOWN = "\u2013";

/** State of a roll-out -> [word, kind of chip]. */
const STATES = {
  loading: ["loading", "plain"],
  running: ["on trial", "plain"],
  probation: ["on probation", "plain"],
  done: ["promoted", "good"],
  rejected: ["rejected", "bad"],
  rolled_back: ["rolled back", "bad"],
};
const RULINGS = { wait: ["not decided", "plain"], promote: ["promote", "good"], reject: ["reject", "bad"] };
export const MODES = { canary: "canary", shadow: "shadow", blue_green: "switched without a trial" };

export function chip([word, kind]) {
  return h("span", { class: `chip ${kind}` }, word);
}

export function stateChip(state) {
  return chip(STATES[state] || [state, "plain"]);
}

/** Names with their new versions. */
export function what({ models, configuration }) {
  return withConfiguration(models.map(({ name, version }) => `${name} ${version}`), configuration, "configuration");
}

/** Names with the versions before and after. */
export function change({ models, configuration }) {
  const names = models.map(({ name, version, before }) => `${name} ${before || "(new)"} \u2192 ${version}`);
  return withConfiguration(names, configuration, "configuration");
}

/** What going back means, for a question. */
export function wayBack({ models, configuration }) {
  const ways = models.map(({ name, before }) =>
    before ? `${name} goes back to version ${before}` : `${name} goes away, it was new`,
  );
  return withConfiguration(ways, configuration, "the configuration goes back to what it was");
}

/** A release may change routes, rules and recipes too, with its models or alone. */
function withConfiguration(parts, configuration, text) {
  return [...parts, ...(configuration ? [text] : [])].join(", ");
}

/** One sentence: what happens to the inputs now. */
export function happens({ state, mode, policy, models, at }) {
  const before = [...new Set(models.map((each) => each.before).filter(Boolean))];
  const other = before.length === 1 ? `version ${before[0]}` : "the version before";
  const it = models.length === 1 ? "It" : "Each of them";
  if (state === "loading") return `Since ${moment(at)} it is loaded and tested; what served goes on serving.`;
  if (state === "probation") return `${it} serves. The box goes back by itself if more fails than may.`;
  if (!before.length) return models.length ? "Nothing served before it." : "It changes no model.";
  if (mode === "shadow") return `${it} judges what ${other} judges, and answers nobody.`;
  return `${it} answers ${percent(policy.share)} of the inputs; ${other} answers the rest and steps in on a failure.`;
}

/** What was seen of every model; how far the time is stands before the first. */
export function figures(rollout) {
  const lasts = rollout.state === "running" || rollout.state === "probation";
  return rollout.evidence.map((each, at) =>
    h(
      "div",
      { class: "seen" },
      rollout.evidence.length > 1 ? h("h3", {}, `${each.name} ${each.version}`) : null,
      h(
        "div",
        { class: "figures" },
        lasts && at === 0 ? timeFigure(rollout) : null,
        servingFigures(each, rollout),
        rollout.mode === "blue_green" ? null : trialFigures(each, rollout.policy),
      ),
      ruling(each, rollout),
      notes(each),
    ),
  );
}

function timeFigure({ state, policy, elapsed_s, probation_s }) {
  return state === "probation"
    ? timeCard("Probation", probation_s, policy.probation_s, "of")
    : timeCard("Time on trial", elapsed_s, policy.deadline_s, "ruled at the latest after");
}

function timeCard(title, passed_s, whole_s, word) {
  return card(title, span(passed_s), `${word} ${span(whole_s)}`, bar(title, passed_s, whole_s));
}

function servingFigures({ probation_inputs: inputs, probation_errors: errors }, { state, policy }) {
  if (state !== "probation" && inputs === 0) return null;
  return card("Since it serves", String(errors), `of ${inputs} inputs failed; ${allowed(policy.errors_max)}`);
}

function trialFigures(evidence, policy) {
  const { inputs, errors, compared, agreed, agreement, before, latency_ms_p95, before_ms_p95 } = evidence;
  if (before === null) return null; // Nobody to compare it with, nor to give it inputs.
  const times = `at most ${number(policy.latency_ratio_max)} times`;
  return [
    card("Inputs", String(inputs), `${policy.inputs_min} needed`, bar("Inputs", inputs, policy.inputs_min)),
    card("Failed", String(errors), allowed(policy.errors_max)),
    card(
      "Same verdict",
      agreement === null ? UNKNOWN : percent(agreement),
      `${agreed} of ${compared} alike; at least ${percent(policy.agreement_min)}`,
    ),
    card(
      "Time, p95",
      latency_ms_p95 === null ? UNKNOWN : `${number(latency_ms_p95)} ms`,
      before_ms_p95 === null ? `${times} version ${before}` : `version ${before}: ${number(before_ms_p95)} ms; ${times}`,
    ),
  ];
}

function allowed(share) {
  return share === 0 ? "none may" : `at most ${percent(share)} may`;
}

function ruling({ ruling: decision, reason }, { state, mode }) {
  if (!decision || mode === "blue_green") return null;
  return h(
    "p",
    { class: "ruling" },
    h("span", {}, state === "running" ? "Ruling so far" : "Ruling of the trial"),
    chip(RULINGS[decision] || [decision, "plain"]),
    h("span", { class: "why-text" }, reason || ""),
  );
}

function notes({ replayed, dropped }) {
  const known = [
    replayed ? `${replayed} of the inputs were recent pictures, judged again.` : null,
    dropped ? `${dropped} comparisons were left out, the lanes were busy.` : null,
  ].filter(Boolean);
  return known.length ? h("p", { class: "tile-text" }, known.join(" ")) : null;
}

/** The last inputs that both judged otherwise, of every model. */
export function differences({ evidence }) {
  return evidence.filter((each) => each.differences.length).map((each) => {
    const shown = each.differences.slice(-DIFFERENCES).reverse();
    const who = evidence.length > 1 ? ` by ${each.name}` : "";
    return h(
      "div",
      { class: "seen" },
      h("h3", {}, `Judged otherwise${who}, the last ${shown.length}`),
      h("ul", { class: "differences" }, shown.map((one) => difference(one, each))),
    );
  });
}

function difference({ result, before, now }, versions) {
  return h(
    "li",
    {},
    result === null ? h("span", {}, "A recent picture") : h("a", { href: `#results/${result}` }, `Result ${result}`),
    h("span", {}, `version ${versions.before}`),
    badge(before),
    h("span", {}, `version ${versions.version}`),
    badge(now),
  );
}

function card(title, value, about, meter) {
  return h(
    "div",
    { class: "figure" },
    h("span", { class: "figure-name" }, title),
    h("strong", {}, value),
    h("span", { class: "figure-about" }, about),
    meter || null,
  );
}

/** How much of a whole, as a bar; the figures stand beside it. */
export function bar(name, done, whole) {
  const share = whole > 0 ? Math.min(1, done / whole) : 0;
  const inner = h("span", { class: "bar" });
  inner.style.width = `${share * 100}%`;
  return h(
    "span",
    {
      class: "track",
      role: "progressbar",
      "aria-label": name,
      "aria-valuemin": "0",
      "aria-valuemax": "100",
      "aria-valuenow": String(Math.floor(share * 100)),
    },
    inner,
  );
}
