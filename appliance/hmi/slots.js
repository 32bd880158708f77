// The versions of a model: which one serves, which is tried, which it can go back to, and what each is worth.

import { facts, h } from "./dom.js";
import { stateChip } from "./trial.js";
import { number } from "./words.js";

/** Slot -> what it does. */
const SLOTS = { current: "serves now", candidate: "is tried", previous: "served before" };
const ORIGINS = {
  shipped: "shipped with the appliance",
  import: "brought to this site",
  folder: "a folder on this box",
};

/** versions: all of one model. Returns [{name, title, slots, rest}], by name; slots in the order of SLOTS. */
export function byModel(versions) {
  const order = Object.keys(SLOTS);
  return [...new Set(versions.map((each) => each.name))].map((name) => {
    const mine = versions.filter((each) => each.name === name);
    const slots = mine.filter((each) => each.slot).sort((a, b) => order.indexOf(a.slot) - order.indexOf(b.slot));
    return { name, title: (slots[0] || mine[0]).title, slots, rest: mine.filter((each) => !each.slot) };
  });
}

export function slotBlock(each) {
  return h(
    "div",
    { class: "slot", "data-slot": each.slot },
    h("h3", {}, `Version ${each.version} ${SLOTS[each.slot]}`, h("span", { class: "chip plain" }, each.slot)),
    each.blocked ? h("p", { class: "reason-text" }, `Not to serve on this box: ${each.blocked}`) : null,
    facts([
      ["Origin", ORIGINS[each.origin] || `update from ${each.origin}`],
      ["Signed by", signers(each)],
      ["Digest", each.digest && h("span", { title: each.digest }, each.digest.slice(0, 16))],
      ["Self-test", test(each.self_test)],
      ["Roll-out", each.trial && h("span", {}, stateChip(each.trial.state), ` ${each.trial.reason || ""}`)],
    ]),
  );
}

/** Versions that have no slot, in a line each. */
export function restList(rest) {
  return h(
    "ul",
    { class: "past" },
    rest.map((each) =>
      h(
        "li",
        {},
        h("span", {}, `Version ${each.version}`),
        h("span", {}, each.reason || (each.blocked ? `not taken again: ${each.blocked}` : "on the disk, not in use")),
      ),
    ),
  );
}

function signers({ signed, signed_by: by, origin }) {
  if (by && by.keys) return `${by.role}, ${by.keys.length === 1 ? "key" : "keys"} ${by.keys.map(short).join(", ")}`;
  if (signed) return origin === "import" ? "this site's key" : "a key of central ops";
  return origin === "shipped" ? "nobody; it is part of the package" : "nobody";
}

function short(key) {
  return String(key).slice(0, 8);
}

function test(told) {
  if (!told || told.passed === undefined) return null;
  if (!told.passed) return `failed: ${told.reason || told.code || "no reason was given"}`;
  const known = [
    told.cases === undefined ? null : `${told.cases} golden cases`,
    told.seconds ? `in ${number(told.seconds)} s` : null,
    told.memory_mb ? `with ${number(told.memory_mb)} MB` : null,
    told.infer_ms_median ? `${number(told.infer_ms_median)} ms a call on ${told.device}` : null,
  ];
  return ["passed", ...known.filter(Boolean)].join(", ");
}
