// Canvas drawings: a picture with its findings, a vibration curve, the strip of the last scores. Colours come from the
// style sheet, so that light and dark follow it.

import { labelText, number, percent } from "./words.js";

const HEAT_ALPHA_MAX = 112; // Of 255: what lies under the surest cell can still be seen.
const HEAT_FLOOR = 40; // Of 255: fainter cells would only veil the picture.

/** Size the canvas to its box in device pixels and return a context in CSS pixels, cleared. */
function begin(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
  if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  const style = getComputedStyle(canvas);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  context.font = `600 13px ${style.fontFamily}`;
  context.textBaseline = "middle";
  return { context, width, height, colour };
}

/** image: an <img> that has loaded, of `result`. heat: whether to lay the heat map over it. */
export function drawPicture(canvas, image, result, heat = true) {
  const prediction = result.prediction;
  const { context, width, height } = begin(canvas);
  const scale = Math.min(width / image.naturalWidth, height / image.naturalHeight);
  const w = image.naturalWidth * scale;
  const left = (width - w) / 2;
  const hh = image.naturalHeight * scale;
  const top = (height - hh) / 2;
  context.imageSmoothingEnabled = scale < 3;
  context.drawImage(image, left, top, w, hh);
  if (!prediction) return;
  if (heat && prediction.heatmap) {
    context.imageSmoothingEnabled = true;
    context.drawImage(heatLayer(prediction.heatmap), left, top, w, hh);
  }
  // A warm spot in a part that is ok is no finding.
  const regions = result.verdict === "ok" ? [] : prediction.regions || [];
  for (const region of regions) {
    const [x0, y0, x1, y1] = region.box;
    box(context, left + x0 * scale, top + y0 * scale, (x1 - x0) * scale, (y1 - y0) * scale);
  }
  for (const region of regions) {
    const [x, above, , below] = region.box;
    const at = { x: left + x * scale, above: top + above * scale, below: top + below * scale };
    tag(context, `${labelText(region.label)} ${percent(region.score)}`, at, width, height);
  }
}

/** White on black lines stay visible on any picture. */
function box(context, x, y, w, h) {
  context.lineWidth = 5;
  context.strokeStyle = "rgba(0,0,0,.75)";
  context.strokeRect(x, y, w, h);
  context.lineWidth = 2;
  context.strokeStyle = "#fff";
  context.strokeRect(x, y, w, h);
}

function tag(context, text, at, width, height) {
  const w = context.measureText(text).width + 12;
  const x = Math.max(0, Math.min(at.x - 2, width - w));
  const y = at.above >= 24 ? at.above - 24 : Math.min(at.below + 3, height - 21);
  context.fillStyle = "rgba(0,0,0,.82)";
  context.fillRect(x, y, w, 21);
  context.fillStyle = "#fff";
  context.fillText(text, x + 6, y + 11);
}

/** Cells to a small picture: clear, then amber, then red with the strength. */
function heatLayer({ rows, columns, cells }) {
  const bytes = atob(cells);
  const layer = document.createElement("canvas");
  layer.width = columns;
  layer.height = rows;
  const context = layer.getContext("2d");
  const pixels = context.createImageData(columns, rows);
  for (let cell = 0; cell < rows * columns; cell += 1) {
    const strength = bytes.charCodeAt(cell);
    const share = Math.max(0, strength - HEAT_FLOOR) / (255 - HEAT_FLOOR);
    pixels.data[4 * cell] = 255;
    pixels.data[4 * cell + 1] = Math.round(176 * (1 - share));
    pixels.data[4 * cell + 2] = Math.round(40 * share);
    pixels.data[4 * cell + 3] = Math.round(HEAT_ALPHA_MAX * Math.sqrt(share));
  }
  context.putImageData(pixels, 0, 0);
  return layer;
}

/** The largest value of a trace, either way, in its unit. */
export function peakOf(trace) {
  return Math.max(1e-9, ...trace.low.map(lowest), ...trace.high.map(highest));
}

/** trace: the lowest and highest value in each of n stretches, per channel; one lane a channel, one scale for all. */
export function drawCurve(canvas, trace, peak) {
  const { context, width, height, colour } = begin(canvas);
  const foot = 20;
  const margin = 26;
  const lane = (height - foot) / trace.channels.length;
  trace.channels.forEach((channel, row) => {
    const middle = lane * (row + 0.5);
    const y = (value) => middle - (value / peak) * (lane / 2 - 3);
    const x = (index, count) => margin + (index / Math.max(1, count - 1)) * (width - margin - 8);
    context.strokeStyle = colour("line");
    context.lineWidth = 1;
    line(context, margin, middle, width - 8, middle);
    const low = trace.low[row];
    const high = trace.high[row];
    context.beginPath();
    high.forEach((value, index) => context.lineTo(x(index, high.length), y(value)));
    for (let index = low.length - 1; index >= 0; index -= 1) context.lineTo(x(index, low.length), y(low[index]));
    context.closePath();
    context.fillStyle = colour("curve");
    context.fill();
    context.strokeStyle = colour("curve");
    context.lineWidth = 1.25;
    context.stroke();
    context.fillStyle = colour("ink");
    context.fillText(channel, 6, middle);
  });
  context.fillStyle = colour("muted");
  const bottom = height - foot / 2;
  context.fillText(`scale \u00b1${number(peak)} ${trace.unit}`, margin, bottom);
  const duration = `${number(trace.duration_s)} s`;
  context.fillText(duration, width - 8 - context.measureText(duration).width, bottom);
}

const lowest = (values) => values.reduce((most, value) => Math.max(most, -value), 0);
const highest = (values) => values.reduce((most, value) => Math.max(most, value), 0);

function line(context, x0, y0, x1, y1) {
  context.beginPath();
  context.moveTo(x0, y0);
  context.lineTo(x1, y1);
  context.stroke();
}

/**
 * The last scores, newest at the right, with the thresholds they are held against.
 *
 * all: [{score, verdict}] oldest first; at most countMax of them are shown, fewer where they would be too thin. The
 * scale follows the thresholds, so that a calm strip stays low; a bar beyond it is cut at the top.
 */
export function drawStrip(canvas, all, countMax, reviewMin, ngMin) {
  const { context, width, height, colour } = begin(canvas);
  const limits = [["review", reviewMin], ["ng", ngMin]].filter(([, at]) => at !== null && at !== undefined);
  const labels = 62;
  const right = width - labels;
  const count = Math.max(1, Math.min(countMax, Math.floor(right / 3)));
  const points = all.slice(-count);
  const scores = points.map((point) => point.score);
  const top = limits.length ? Math.max(...limits.map(([, at]) => at)) * 1.6 : Math.max(1e-9, ...scores) * 1.1;
  const most = limits.length && top > 0.8 && top <= 1.6 && scores.every((score) => score <= 1) ? 1.04 : top;
  const y = (score) => height - 1 - (Math.min(Math.max(score, 0), most) / most) * (height - 3);
  const step = right / count;
  context.fillStyle = colour("well");
  context.fillRect(0, 0, right, height);
  points.forEach((point, index) => {
    const x = Math.round(right - (points.length - index) * step);
    context.fillStyle = colour(`v-${point.verdict}`) || colour("muted");
    const at = Math.min(y(point.score), height - 3);
    context.fillRect(x, at, Math.max(2, Math.floor(step) - 1), height - at);
  });
  context.font = context.font.replace("13px", "12px");
  let free = height;
  for (const [name, at] of limits) {
    context.strokeStyle = colour("ink");
    context.lineWidth = 1.5;
    context.setLineDash(name === "ng" ? [] : [5, 4]);
    line(context, 0, y(at), right, y(at));
    context.setLineDash([]);
    context.fillStyle = colour("ink");
    const middle = Math.max(8, Math.min(y(at), free - 8));
    context.fillText(`${name === "ng" ? "NG" : "REV"} ${number(at)}`, right + 6, middle);
    free = middle - 6;
  }
}
