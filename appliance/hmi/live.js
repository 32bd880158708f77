// The Live page: a card per source, the verdict first.

import { wordsBySource } from "./alarms.js";
import { getJson, imagePath, withQuery } from "./api.js";
import { VERDICTS, h, setText, shape } from "./dom.js";
import { drawCurve, drawPicture, drawStrip, peakOf } from "./draw.js";
import { ago, boxNow, timeOfDay } from "./time.js";
import { finding, number, percent, scoreOf } from "./words.js";

const SCORES = 120;
const PICTURE_MS_MIN = 250; // At most four pictures a second of one source, and one on its way.
const PAINT_MS_MIN = 100; // A fast line repaints its card ten times a second, no more.
const SPOKEN_MS_MIN = 2000;
const QUIET_S = 60;
const REMEMBERED_S = 86400; // Sources silent for longer get their card back with their next result.
export const TRY_SOURCE = "try"; // Pictures dropped on the Try page must not rearrange the operators' screen.

export function livePage(root) {
  const cards = new Map();
  const counted = new Set();
  const opened_ms = performance.now(); // The box's clock is not known yet: its time is asked for when it is shown.
  const grid = h("div", { class: "cards" });
  const empty = h(
    "p",
    { class: "empty", hidden: true },
    h("strong", {}, "Waiting for the first source."),
    " Publish a picture or readings to the box over MQTT, or ",
    h("a", { href: "#try" }, "try a picture of your own"),
    ".",
  );
  root.append(grid, empty);
  let full = null;
  const unspoken = new Map();
  let words = new Map(); // What is wrong with a source, by its name.
  let ofPictures = new Set(); // Models that judge pictures.
  let spokenAt = -SPOKEN_MS_MIN;
  let speaking = null;

  function card(source) {
    let found = cards.get(source);
    if (!found) {
      found = sourceCard(source, opened_ms, (model) => ofPictures.has(model));
      cards.set(source, found);
      found.warn(words.get(source));
      const after = [...cards.values()]
        .filter((other) => other.source.localeCompare(source, undefined, { numeric: true }) > 0)
        .sort((a, b) => a.source.localeCompare(b.source, undefined, { numeric: true }))[0];
      grid.insertBefore(found.element, after ? after.element : null);
      found.element.classList.toggle("full", source === full);
      markFull();
      empty.hidden = true;
      found.fit();
    }
    return found;
  }

  function markFull() {
    document.body.classList.toggle("has-full", full !== null && cards.has(full) && !root.hidden);
  }

  /** Once per result: a stream that reconnects may repeat some. */
  function isNew(id) {
    if (id > 0 && counted.has(id)) return false;
    counted.add(id);
    if (counted.size > 2000) counted.delete(counted.values().next().value);
    return true;
  }

  /** To screen readers: verdicts that changed, the newest of each source, at a pace that can be listened to. */
  function speak(result, before) {
    if (result.verdict === before || root.hidden) return;
    const part = result.part ? `, part ${result.part}` : "";
    unspoken.set(result.source, `${result.source}: ${VERDICTS[result.verdict]}${part}`);
    if (speaking !== null) return;
    speaking = setTimeout(() => {
      speaking = null;
      spokenAt = performance.now();
      setText(document.getElementById("heard"), [...unspoken.values()].join(". "));
      unspoken.clear();
    }, Math.max(0, spokenAt + SPOKEN_MS_MIN - performance.now()));
  }

  return {
    onResult(result, trace) {
      if (result.source === TRY_SOURCE || !isNew(result.id)) return;
      const mine = card(result.source);
      const before = mine.result ? mine.result.verdict : null;
      mine.take(result, trace, true);
      speak(result, before);
    },

    /** The last result of a source, from before this page listened: shown, not counted. */
    onLatest(result, trace) {
      if (result.source === TRY_SOURCE || boxNow() - result.at >= REMEMBERED_S) return;
      card(result.source).take(result, trace, false);
    },

    onStatus(status) {
      words = wordsBySource(status.alarms);
      ofPictures = new Set(status.models.filter((each) => each.kind === "image").map((each) => each.name));
      for (const each of cards.values()) each.warn(words.get(each.source));
    },

    /** The last results of each source, on opening and after the box was away. */
    async load() {
      const { sources } = await getJson("/v1/sources");
      const recent = sources.filter((each) => each.source !== TRY_SOURCE && boxNow() - each.last_at < REMEMBERED_S);
      await Promise.all(
        recent.map(async ({ source }) => {
          const { results } = await getJson(withQuery("/v1/results", { source, limit: SCORES }));
          if (results.length) card(source).refill(results.slice().reverse());
        }),
      );
      empty.hidden = cards.size > 0;
    },

    /** Numbering began anew: what was counted says nothing about what comes. */
    forget() {
      counted.clear();
      for (const each of cards.values()) each.forget();
    },

    show(source) {
      full = source || null;
      markFull();
      for (const each of cards.values()) {
        each.element.classList.toggle("full", each.source === full);
        each.fit();
      }
    },

    tick() {
      for (const each of cards.values()) each.tick();
    },

    hide() {
      document.body.classList.remove("has-full");
    },

    redraw() {
      for (const each of cards.values()) each.fit();
    },
  };
}

function sourceCard(source, opened_ms, isOfPictures) {
  const warning = h("strong", { class: "warning", hidden: true });
  const age = h("span", { class: "age" });
  const model = h("span", { class: "model" });
  const word = h("span", { class: "word" });
  const verdict = h("div", { class: "verdict" });
  const part = h("strong", { class: "part-number" });
  const lot = h("span", { class: "lot" });
  const why = h("span", { class: "why" });
  const canvas = h("canvas", { role: "img" });
  const note = h("p", { class: "stage-note" });
  const stage = h("div", { class: "stage" }, canvas, note);
  const strip = h("canvas", { role: "img" });
  const stripBox = h("div", { class: "strip", hidden: true }, strip);
  const tally = { ok: 0, ng: 0, review: 0, error: 0 };
  const counts = Object.fromEntries(["ok", "ng", "review"].map((name) => [name, h("dd", {}, "0")]));
  const since = timeOfDay(boxNow(opened_ms)).slice(0, 5);
  const open = h(
    "a",
    { class: "icon-link", href: `#live/${encodeURIComponent(source)}`, "aria-label": `Show ${source} full screen` },
    shape("i-full", "icon"),
  );
  const close = h(
    "a",
    { class: "icon-link close", href: "#live", "aria-label": "Show all sources" },
    shape("i-close", "icon"),
  );
  const element = h(
    "article",
    { class: "card", "aria-label": source },
    h("header", { class: "card-head" }, h("h2", {}, source), model, warning, age, open, close),
    verdict,
    h("p", { class: "part" }, part, lot, why),
    stage,
    stripBox,
    h(
      "dl",
      { class: "counts", title: `Seen by this page since ${since}` },
      h("div", { class: "count-ok" }, h("dt", {}, "OK"), counts.ok),
      h("div", { class: "count-ng" }, h("dt", {}, "NG"), counts.ng),
      h("div", { class: "count-review" }, h("dt", {}, "Review"), counts.review),
      h("div", { class: "since" }, h("dt", {}, "since"), h("dd", {}, since)),
    ),
  );
  element.addEventListener("click", (event) => {
    if (!event.target.closest("a") && !String(window.getSelection())) {
      window.location.hash = element.classList.contains("full") ? "live" : `live/${encodeURIComponent(source)}`;
    }
  });

  let points = [];
  let trace = null;
  let traceId = 0;
  let scale = 0;
  let scaled_ms = 0;
  let shown = null; // The picture on the canvas, with the result it belongs to: findings never lie on another picture.
  let asked = null; // The result whose picture was asked for last.
  let asked_ms = -PICTURE_MS_MIN;
  let loading = false;
  let painted_ms = -PAINT_MS_MIN;
  let waiting = false;

  const self = { source, element, result: null, take, refill, tick, fit, forget, warn };

  function take(result, newTrace, live) {
    if (self.result && result.id > 0 && result.id < self.result.id) return;
    self.result = result;
    if (newTrace) {
      trace = newTrace;
      traceId = result.id;
      // The scale jumps up with a shock and halves in a minute: a calm curve after it looks calm.
      const now = performance.now();
      scale = Math.max(peakOf(trace), scale * 0.5 ** ((now - scaled_ms) / 60000));
      scaled_ms = now;
    }
    const score = scoreOf(result);
    if (score !== null) {
      points.push({ score, verdict: result.verdict });
      if (points.length > SCORES) points = points.slice(-SCORES);
    }
    if (live && tally[result.verdict] !== undefined) tally[result.verdict] += 1;
    paintSoon();
  }

  /** results: oldest first. A newer one that came in meanwhile stays the last. */
  function refill(results) {
    const newer = self.result && self.result.id > results[results.length - 1].id ? self.result : null;
    points = [];
    self.result = null;
    for (const result of newer ? [...results, newer] : results) take(result, null, false);
  }

  function forget() {
    self.result = null;
  }

  /** Called while painting: a card that nobody sees fetches nothing. At high rates pictures are left out. */
  function fetchPicture(result) {
    const wait_ms = asked_ms + PICTURE_MS_MIN - performance.now();
    if (loading || asked === result) return;
    if (wait_ms > 0) {
      setTimeout(paintSoon, wait_ms);
      return;
    }
    loading = true;
    asked = result;
    asked_ms = performance.now();
    const image = new Image();
    const settle = (picture) => {
      loading = false;
      shown = picture;
      paintSoon();
    };
    image.onload = () => settle({ image, result });
    image.onerror = () => settle(null);
    image.src = imagePath(result);
  }

  function paintSoon() {
    if (waiting) return;
    waiting = true;
    const wait_ms = Math.max(0, painted_ms + PAINT_MS_MIN - performance.now());
    setTimeout(() => requestAnimationFrame(() => {
      waiting = false;
      paint();
    }), wait_ms);
  }

  function paint() {
    const result = self.result;
    if (!result || element.offsetParent === null) return; // Nobody can see it.
    painted_ms = performance.now();
    if (result.has_image) fetchPicture(result);
    const name = VERDICTS[result.verdict] ? result.verdict : "none";
    if (element.dataset.verdict !== name) {
      element.dataset.verdict = name;
      setText(word, VERDICTS[name]);
      verdict.className = `verdict v-${name}`;
      verdict.replaceChildren(shape(`v-${name}`, "v-shape"), word);
      fitWord();
    }
    setText(part, result.part || "no part number");
    part.classList.toggle("absent", !result.part);
    setText(lot, [result.lot && `lot ${result.lot}`, result.recipe].filter(Boolean).join(", "));
    setText(why, finding(result));
    setText(model, result.model);
    const all = tally.ok + tally.ng + tally.review;
    setText(counts.ok, String(tally.ok));
    setText(counts.ng, all ? `${tally.ng} (${percent(tally.ng / all)})` : "0");
    setText(counts.review, String(tally.review));
    draw();
    tick();
  }

  function draw() {
    const result = self.result;
    // The limits of this result: a route or a recipe may have changed those of the model.
    const { score_review_min: reviewMin = null, score_ng_min: ngMin = null } = result;
    if (result.verdict === "error" && !result.has_image && traceId !== result.id) {
      // The last good input must not pass for the one that failed.
      showNote(result.error ? result.error.message : "This input could not be judged.");
    } else if (trace && !result.has_image) {
      drawCurve(canvas, trace, scale);
      canvas.setAttribute("aria-label", `Vibration curve of ${source}`);
      setText(note, "");
    } else if (shown && (result.has_image || shown.result === result)) {
      drawPicture(canvas, shown.image, shown.result);
      canvas.setAttribute("aria-label", `Picture from ${source}: ${finding(shown.result)}`);
      setText(note, "");
    } else if (!result.has_image && isOfPictures(result.model)) {
      showNote("This picture is not kept.");
    } else if (!result.has_image) {
      showNote("The curve comes with the next window.");
    } else if (!loading && asked === result) {
      showNote("The picture is not available.");
    }
    stripBox.hidden = points.length === 0;
    if (points.length) {
      drawStrip(strip, points, SCORES, reviewMin, ngMin);
      const said = [
        `Last scores, now ${number(points[points.length - 1].score)}`,
        reviewMin !== null && `review from ${number(reviewMin)}`,
        ngMin !== null && `NG from ${number(ngMin)}`,
      ];
      strip.setAttribute("aria-label", said.filter(Boolean).join(", "));
    }
  }

  function showNote(text) {
    canvas.width = 0;
    canvas.setAttribute("aria-label", `Nothing to show of ${source}`);
    setText(note, text);
  }

  function tick() {
    if (!self.result) return;
    setText(age, ago(self.result.at));
    element.classList.toggle("quiet", boxNow() - self.result.at > QUIET_S);
  }

  /** word: what is wrong with the source, undefined when nothing is. */
  function warn(word) {
    setText(warning, word || "");
    warning.hidden = !word;
    element.classList.toggle("warned", Boolean(word));
  }

  /** The verdict word as large as its block allows: one size for all words on a card, each its own full screen. */
  function fitWord() {
    if (verdict.clientWidth === 0) return;
    const full = element.classList.contains("full");
    const context = document.createElement("canvas").getContext("2d");
    context.font = `800 100px ${getComputedStyle(verdict).fontFamily}`;
    const word_em = context.measureText(full ? word.textContent : VERDICTS.review).width / 100;
    const room = verdict.clientWidth - 32;
    // On a card the shape stands before the word (0.82 em and its gap), full screen above it.
    const size = full
      ? Math.min(verdict.clientHeight * 0.46, room / Math.max(1, word_em))
      : Math.min(verdict.clientHeight * 0.74, room / (word_em + 1.06));
    verdict.style.fontSize = `${Math.floor(size)}px`;
  }

  function fit() {
    fitWord();
    if (self.result) paint();
  }

  if (window.ResizeObserver) new ResizeObserver(fit).observe(stage);
  return self;
}
