// The bar of alarms: what is wrong and what to do, over every page, for as long as it lasts.

import { h, shape } from "./dom.js";
import { moment } from "./time.js";

const SHOWN_MAX = 3; // More would leave no room for the verdicts; the Box page has them all.
const GRAVE = new Set(["store_full", "store_failing"]); // What happens now is not kept.

/** One line per alarm, and one that counts the rest. */
export function showAlarms(list, alarms) {
  const text = alarms.map((alarm) => alarm.kind + alarm.source + alarm.text + alarm.since).join("\n");
  list.hidden = alarms.length === 0;
  if (list.dataset.text === text) return; // Said once: a screen reader need not hear it every beat.
  list.dataset.text = text;
  const graveFirst = [...alarms].sort((a, b) => GRAVE.has(b.kind) - GRAVE.has(a.kind));
  const shown = alarms.length > SHOWN_MAX + 1 ? graveFirst.slice(0, SHOWN_MAX) : graveFirst;
  const left = alarms.length - shown.length;
  list.replaceChildren(
    ...shown.map(line),
    ...(left ? [h("li", { class: "alarm more" }, h("a", { href: "#box" }, `and ${left} more alarms`))] : []),
  );
}

function line(alarm) {
  const [what, todo] = parts(alarm.text);
  return h(
    "li",
    { class: `alarm${GRAVE.has(alarm.kind) ? " grave" : ""}`, "data-kind": alarm.kind },
    shape("v-review", "alarm-shape"),
    h("span", { class: "alarm-text" }, h("strong", {}, what), todo ? h("span", {}, ` ${todo}`) : null),
    h("span", { class: "alarm-since" }, `since ${moment(alarm.since)}`),
  );
}

/** What is wrong stands before the semicolon, what to do behind it. */
export function parts(text) {
  const at = text.indexOf("; ");
  if (at < 0) return [text, ""];
  const todo = text.slice(at + 2);
  return [`${text.slice(0, at)}.`, `${todo[0].toUpperCase()}${todo.slice(1)}.`];
}

const WORDS = { source_silent: "SILENT", picture_dark: "DARK", picture_blurred: "BLURRED" };

/** What is wrong with each source, in a word for its card. */
export function wordsBySource(alarms) {
  const words = new Map();
  for (const { kind, source } of alarms) {
    if (source && WORDS[kind] && !words.has(source)) words.set(source, WORDS[kind]);
  }
  return words;
}
