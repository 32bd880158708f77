// Results in words: what was found, how sure, in how long.

const significant = new Intl.NumberFormat("en-GB", { maximumSignificantDigits: 3, useGrouping: false });

export function number(value) {
  return value === null || value === undefined ? "" : significant.format(value);
}

/** A share as per cent; 0 and 100 only for exactly these. */
export function percent(share) {
  if (share === 0 || share === 1) return `${share * 100} %`;
  if (share < 0.001) return "< 0.1 %";
  if (share > 0.999) return "99.9 %";
  return `${(share * 100).toFixed(share < 0.0995 || share > 0.9945 ? 1 : 0)} %`;
}

/** Labels are identifiers; on a screen they are words. */
export function labelText(label) {
  return label.replace(/_/g, " ");
}

/** What stood in the middle of a line, at the beginning of one. */
export function capital(text) {
  return text ? text[0].toUpperCase() + text.slice(1) : "";
}

export function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const step = Math.min(units.length - 1, count > 0 ? Math.floor(Math.log10(count) / 3) : 0);
  return `${number(count / 1000 ** step)} ${units[step]}`;
}

/** The class that speaks for a result, or null. */
export function topClass(result) {
  const classes = result.prediction && result.prediction.classes;
  return classes && classes.length ? classes[0] : null;
}

/** One line saying why: the error, else the top class. */
export function finding(result) {
  if (result.error) return result.error.message;
  const top = topClass(result);
  if (top) return `${labelText(top.label)} ${percent(top.score)}`;
  return scoreText(result);
}

export function scoreOf(result) {
  const score = result.prediction && result.prediction.score;
  return score === undefined ? null : score;
}

export function scoreText(result) {
  const score = scoreOf(result);
  return score === null ? "" : `score ${number(score)}`;
}

export function spent_ms(result) {
  const timing = result.timing;
  if (!timing) return null;
  return timing.queue_ms + timing.preprocess_ms + timing.infer_ms + timing.postprocess_ms;
}

/** The result as indented JSON; the heat map's cells shortened unless `whole`. */
export function asJson(result, whole) {
  const shorten = (name, value) =>
    !whole && name === "cells" && typeof value === "string" && value.length > 48
      ? `${value.slice(0, 40)}... (${value.length} characters)`
      : value;
  return JSON.stringify(result, shorten, 2);
}
