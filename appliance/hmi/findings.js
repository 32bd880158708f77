// One result in full: verdict, picture with its findings, classes, times, JSON. Shown by Results and by Try.

import { VERDICTS, copyButton, facts, h, shape } from "./dom.js";
import { drawPicture } from "./draw.js";
import { moment } from "./time.js";
import { asJson, finding, labelText, number, percent, spent_ms } from "./words.js";

/** The verdict as a block with its reason. */
export function verdictBlock(result) {
  const name = VERDICTS[result.verdict] ? result.verdict : "none";
  return h(
    "div",
    { class: `verdict compact v-${name}` },
    shape(`v-${name}`, "v-shape"),
    h("span", { class: "word" }, VERDICTS[name]),
    h("span", { class: "reason" }, finding(result)),
  );
}

/** The picture at `source` (an address) with the findings of `result`, and a switch for the heat map. */
export function pictureBlock(source, result) {
  const canvas = h("canvas", { role: "img", "aria-label": `Picture: ${finding(result)}` });
  const note = h("p", { class: "stage-note" }, "Loading the picture");
  const stage = h("div", { class: "stage tall" }, canvas, note);
  const heat = h("input", { type: "checkbox", checked: true });
  const image = new Image();
  const draw = () => {
    if (image.complete && image.naturalWidth && canvas.clientWidth) {
      drawPicture(canvas, image, result, heat.checked);
    }
  };
  image.onload = () => {
    note.remove();
    draw();
  };
  image.onerror = () => {
    note.textContent = "The picture is no longer kept, or this browser cannot show it.";
  };
  image.src = source;
  heat.addEventListener("change", draw);
  if (window.ResizeObserver) new ResizeObserver(draw).observe(stage);
  const hasHeat = result.prediction && result.prediction.heatmap;
  return h("div", {}, stage, hasHeat ? h("label", { class: "switch" }, heat, " Heat map") : null);
}

export function classBars(result) {
  const classes = (result.prediction && result.prediction.classes) || [];
  return h(
    "ul",
    { class: "bars", "aria-label": "Classes" },
    classes.map(({ label, score }) => {
      const bar = h("span", { class: "bar" });
      bar.style.width = `${Math.max(0.5, score * 100)}%`;
      const track = h("span", { class: "track" }, bar);
      return h("li", {}, h("span", { class: "bar-label" }, labelText(label)), track, percent(score));
    }),
  );
}

export function timingText(result) {
  const t = result.timing;
  if (!t) return null;
  const steps = { waiting: t.queue_ms, preparing: t.preprocess_ms, model: t.infer_ms, after: t.postprocess_ms };
  const text = Object.entries(steps).map(([name, ms]) => `${name} ${number(ms)}`);
  return `${number(spent_ms(result))} ms: ${text.join(", ")}`;
}

export function resultFacts(result) {
  const prediction = result.prediction || {};
  const unit = prediction.score_unit ? ` (${prediction.score_unit})` : "";
  return facts([
    ["Part", result.part],
    ["Lot", result.lot],
    ["Recipe", result.recipe],
    ["Score", prediction.score === undefined ? null : `${number(prediction.score)}${unit}`],
    ["Time", moment(result.at)],
    ["Source", result.source],
    ["Model", `${result.model} ${result.version}, ${result.variant}${result.signed ? ", signed" : ", unsigned"}`],
    ["Took", timingText(result)],
    ["Number", result.id > 0 ? String(result.id) : null],
    ["Recorded", result.recorded],
    ["Flags", (result.flags || []).join(", ")],
    ["Error", result.error ? `${result.error.message} (${result.error.code})` : null],
  ]);
}

export function jsonBlock(result) {
  return h(
    "details",
    { class: "json" },
    h("summary", {}, "JSON"),
    copyButton("Copy JSON", () => asJson(result, true)),
    h("pre", { tabindex: "0" }, asJson(result, false)),
  );
}
