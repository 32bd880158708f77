// The Box page: the box, its models, lanes, store and MQTT ways, as /v1/status tells them.

import { parts } from "./alarms.js";
import { getJson } from "./api.js";
import { facts, h } from "./dom.js";
import { ago, moment, screenAhead_s, span } from "./time.js";
import { bytes, labelText, number } from "./words.js";

const CLOCKS_APART_S = 60;
const ALARMS = 10; // Of the past, on the page; /v1/alarms has more.
const GOOD = new Set(["ready", "ok", "listening", "connected", "none"]);
const BAD = new Set(["failed", "full", "failing", "silent", "dark", "blurred", "active"]);
const KEPT = { all: "all are kept", findings: "findings are kept", none: "none is kept" };
const ORIGINS = {
  shipped: "shipped with the appliance",
  update: "signed update",
  import: "signed by this site",
  folder: "unsigned folder",
};

export function boxPage(root) {
  const grid = h("div", { class: "tiles" });
  root.append(grid);
  let last = null;
  let past = [];
  let active = "";

  function paint() {
    if (root.hidden || last === null) return;
    if (grid.children.length && String(window.getSelection())) return; // Somebody is marking text to copy it.
    const scrolled = document.getElementById("main").scrollTop;
    grid.replaceChildren(
      device(last),
      alarms(last.alarms, past),
      ...last.models.map(model),
      mqtt(last.mqtt),
      ...(last.watched.length ? [watched(last.watched, last.alarms)] : []),
      store(last.store),
      lanes(last.lanes),
      deadLetters(last.dead_letters),
    );
    document.getElementById("main").scrollTop = scrolled;
  }

  async function loadPast() {
    const answer = await getJson(`/v1/alarms?limit=${ALARMS}`);
    past = answer.history.filter((each) => each.until !== null);
    paint();
  }

  return {
    onResult() {},
    onStatus(status) {
      last = status;
      const now = JSON.stringify(status.alarms);
      if (now !== active) loadPast();
      active = now;
      paint();
    },
    load: loadPast,
    show: paint,
  };
}

function tile(title, state, ...children) {
  return h("section", { class: "tile" }, h("h2", {}, title, state ? chip(state) : null), ...children);
}

function chip(state) {
  const kind = GOOD.has(state) ? "good" : BAD.has(state) ? "bad" : "plain";
  return h("span", { class: `chip ${kind}` }, state);
}

function device(status) {
  const apart = screenAhead_s();
  return tile(
    status.device,
    status.ready ? "ready" : "starting",
    facts([
      ["Version", status.version],
      ["Running for", span(status.uptime_s)],
      ["Started", moment(status.started_at)],
      ["Its clock", moment(status.at)],
      [
        "Clocks",
        Math.abs(apart) > CLOCKS_APART_S
          ? `this screen is ${span(Math.abs(apart))} ${apart > 0 ? "ahead" : "behind"}`
          : null,
      ],
    ]),
  );
}

function alarms(active, past) {
  return tile(
    "Alarms",
    active.length ? "active" : "none",
    active.length || past.length ? null : h("p", { class: "tile-text" }, "There was none."),
    h("ul", { class: "past" }, active.map((each) => alarm(each, "now")), past.map((each) => alarm(each, null))),
  );
}

function alarm(each, now) {
  const until = now || `${moment(each.until)} (${span(each.until - each.since)})`;
  return h(
    "li",
    { class: now ? "now" : null },
    h("span", { class: "change-time" }, `${moment(each.since)} to ${until}`),
    h("span", {}, parts(each.text)[0]),
  );
}

function watched(sources, active) {
  const wrong = new Map(active.map((each) => [each.source, each.kind.split("_").pop()]));
  return tile(
    "Sources",
    null,
    sources.map((each) =>
      h(
        "div",
        { class: "watched" },
        h("h3", {}, each.source, wrong.has(each.source) ? chip(wrong.get(each.source)) : null),
        facts([
          ["Last heard", `${span(each.silent_s)} ago`],
          ["Expected", each.expected_every_s === null ? null : `every ${span(each.expected_every_s)}`],
          ["Brightness", each.brightness === null ? null : `${number(each.brightness)} (0 dark to 1 bright)`],
          ["Sharpness", each.sharpness === null ? null : number(each.sharpness)],
          ["Pictures", `${KEPT[each.images]}${each.masked ? ", masked" : ""}`],
        ]),
      ),
    ),
  );
}

function model(each) {
  return tile(
    `${each.name} ${each.version}`,
    each.state,
    h("p", { class: "tile-text" }, each.title),
    each.reason ? h("p", { class: "reason-text" }, each.reason) : null,
    facts([
      ["Takes", takes(each)],
      ["Knows", each.labels.map(labelText).join(", ")],
      ["Runs as", each.variant && `${each.variant} (${each.runtime})`],
      ["Origin", each.digest && `${ORIGINS[each.origin]}, ${each.digest.slice(0, 12)}`],
      ["Updates", beside(each)],
      ["Judged", `${each.requests}${each.errors ? `, ${each.errors} failed` : ""}`],
      [
        "Model time",
        each.infer_ms_p50 === null
          ? null
          : `half within ${number(each.infer_ms_p50)} ms, 99 % within ${number(each.infer_ms_p99)} ms`,
      ],
      [
        "Limits",
        [
          each.score_review_min !== null && `review from ${number(each.score_review_min)}`,
          each.score_ng_min !== null && `NG from ${number(each.score_ng_min)}`,
        ]
          .filter(Boolean)
          .join(", "),
      ],
    ]),
  );
}

/** The versions beside it, with the way to the page about them. */
function beside({ candidate, previous }) {
  const text = [candidate && `version ${candidate.version} is tried`, previous && `can go back to ${previous.version}`];
  return candidate || previous ? h("a", { href: "#updates" }, text.filter(Boolean).join(", ")) : null;
}

function takes({ kind, window_size, rate_hz }) {
  if (kind === "window") return `${window_size} readings at ${rate_hz} Hz`;
  return kind === "image" ? "JPEG or PNG" : null;
}

function lanes(all) {
  return tile(
    "Lanes",
    null,
    all.map((lane) =>
      facts([
        ["Device", lane.device],
        ["Busy", `${lane.busy} of ${lane.lanes}`],
        ["Waiting", `${lane.waiting} of at most ${lane.waiting_max}`],
        ["Refused", String(lane.refused)],
      ]),
    ),
  );
}

function store(state) {
  return tile(
    "Store",
    state.state,
    state.reason ? h("p", { class: "reason-text" }, state.reason) : null,
    facts([
      ["Results", String(state.results)],
      ["Size", bytes(state.bytes)],
      ["Free on disk", bytes(state.free_bytes)],
      ["Room", state.upkeep.level === "ok" ? null : state.upkeep.level.replace(/_/g, " ")],
      ["Last written", state.last_commit_age_s === null ? null : `${span(state.last_commit_age_s)} ago`],
    ]),
  );
}

function mqtt({ listener, broker }) {
  return tile(
    "MQTT",
    null,
    facts([
      ["Listener", chip(listener.state)],
      ["Address", listener.address],
      ["Clients", listener.clients === undefined ? null : String(listener.clients)],
      ["Received", listener.received === undefined ? null : String(listener.received)],
      ["Acknowledged", listener.acknowledged === undefined ? null : String(listener.acknowledged)],
      ["Site broker", chip(broker.state)],
      ["Its address", broker.address],
      ["Why", broker.reason],
    ]),
  );
}

function deadLetters({ total, last }) {
  return tile(
    "Dead letters",
    null,
    h("p", { class: "tile-text" }, total ? "Messages that could not be judged." : "Every message could be judged."),
    facts([
      ["Total", String(total)],
      ["Last", last ? `${moment(last.at)}, ${ago(last.at)}` : null],
      ["Topic", last ? last.topic : null],
      ["Reason", last ? `${last.reason} (${last.code})` : null],
    ]),
  );
}
