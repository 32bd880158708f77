// The box's clock. The box and this screen rarely agree on the time, so ages are measured against the box's `at`,
// carried forward by this screen's monotonic clock; times of day are shown in this screen's zone.

let boxAt = null;
let heardAt = 0;

const pad = (number) => String(number).padStart(2, "0");

/** at: seconds since 1970 as the box said them just now. */
export function setBoxClock(at) {
  boxAt = at;
  heardAt = performance.now();
}

/** Seconds since 1970 on the box now; this screen's own clock until the box has answered. */
export function boxNow(monotonic_ms = performance.now()) {
  if (boxAt === null) return (Date.now() - performance.now() + monotonic_ms) / 1000;
  return boxAt + (monotonic_ms - heardAt) / 1000;
}

/** How far this screen's clock is ahead of the box's, in seconds. */
export function screenAhead_s() {
  return boxAt === null ? 0 : Date.now() / 1000 - boxNow();
}

export function timeOfDay(at) {
  const date = new Date(at * 1000);
  return `${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}`;
}

/** The time, with its date unless that is today's. */
export function moment(at) {
  const date = new Date(at * 1000);
  const today = new Date(boxNow() * 1000);
  if (date.toDateString() === today.toDateString()) return timeOfDay(at);
  return `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())} ${timeOfDay(at)}`;
}

/** A span in its largest unit: 8 s, 2 min, 3 h, 5 days. */
export function span(seconds) {
  const s = Math.max(0, seconds);
  if (s < 60) return `${Math.floor(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} days`;
}

export function ago(at) {
  const seconds = boxNow() - at;
  return seconds < 1 ? "now" : `${span(seconds)} ago`;
}
