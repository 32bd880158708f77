// What came and what became of it: releases, roll-outs, and the versions that this box does not take again.

import { h } from "./dom.js";
import { moment } from "./time.js";
import { MODES, bar, change, chip, differences, figures, stateChip } from "./trial.js";
import { bytes } from "./words.js";

/** Status of an install -> [word, kind of chip]. */
const STATUS = {
  checking: ["checking", "plain"],
  downloading: ["downloading", "plain"],
  testing: ["self-test", "plain"],
  ready: ["installed", "good"],
  failed: ["failed", "bad"],
  superseded: ["superseded", "plain"],
};

export function installsTile(all) {
  return [
    h("h2", {}, "Releases that came"),
    all.length ? h("ul", { class: "past" }, all.map(install)) : h("p", { class: "tile-text" }, "There was none."),
  ];
}

function install(each) {
  const names = Object.entries(each.models).map(([name, version]) => `${name} ${version}`).join(", ");
  const open = !["ready", "superseded"].includes(each.status) && each.bytes_total > 0;
  return h(
    "li",
    { "data-status": each.status },
    h("span", { class: "change-time" }, moment(each.at)),
    h("strong", {}, `Release ${each.number}`),
    chip(STATUS[each.status] || [each.status, "plain"]),
    names ? h("span", { class: "names" }, names) : null,
    open
      ? h(
          "span",
          { class: "loaded" },
          bar(`Download of release ${each.number}`, each.bytes_done, each.bytes_total),
          h("span", {}, `${bytes(each.bytes_done)} of ${bytes(each.bytes_total)}`),
        )
      : null,
    each.reason ? h("span", { class: "why-text" }, each.code ? `${each.reason} (${each.code})` : each.reason) : null,
  );
}

export function historyTile(rollouts) {
  return [
    h("h2", {}, "Roll-outs so far"),
    rollouts.length
      ? h("ul", { class: "past history" }, rollouts.map(past))
      : h("p", { class: "tile-text" }, "There was none."),
  ];
}

function past(rollout) {
  const told = rollout.evidence.some((each) => each.inputs || each.probation_inputs);
  const lasted = rollout.ruled_at === null ? "" : `, ruled ${moment(rollout.ruled_at)}`;
  return h(
    "li",
    { "data-rollout": String(rollout.id) },
    h("span", { class: "change-time" }, `${moment(rollout.at)}${lasted}`),
    h("strong", {}, change(rollout)),
    stateChip(rollout.state),
    h("span", { class: "why-text" }, [MODES[rollout.mode], rollout.reason].filter(Boolean).join("; ")),
    told ? h("details", { class: "json" }, h("summary", {}, "Figures"), figures(rollout), differences(rollout)) : null,
  );
}

export function blockedTile(all) {
  if (!all.length) return [];
  return [
    h("h2", {}, "Not taken again"),
    h(
      "ul",
      { class: "past" },
      all.map((each) =>
        h(
          "li",
          {},
          h("span", { class: "change-time" }, moment(each.at)),
          h("strong", {}, `${each.name} ${each.version}`),
          h("span", { class: "why-text" }, each.reason),
        ),
      ),
    ),
  ];
}
