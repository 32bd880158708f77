// The box's HTTP doors as this page uses them, and its event stream.

import { boxNow, setBoxClock } from "./time.js";

const SILENT_MS_MAX = 6000; // The status beats every 2 s: three missing beats are no accident.
const RETRY_MS_MAX = 5000;

/** What the box refused, from its problem document: detail, code and status. Status 0: the box did not answer. */
export class Problem extends Error {
  constructor(detail, code, status) {
    super(detail);
    this.code = code;
    this.status = status;
  }
}

async function request(path, init) {
  let response;
  try {
    response = await fetch(path, init);
  } catch {
    throw new Problem("The box does not answer.", "no_answer", 0);
  }
  if (response.ok) return response;
  let body = {};
  try {
    body = await response.json();
  } catch {
    // No problem document: the status has to do.
  }
  throw new Problem(body.detail || response.statusText || "refused", body.code || "unknown", response.status);
}

export async function getJson(path, init) {
  return (await request(path, init)).json();
}

export async function getBlob(path) {
  return (await request(path)).blob();
}

export async function post(path, body, headers) {
  return (await request(path, { method: "POST", body, headers })).json();
}

export async function put(path, value) {
  return send("PUT", path, value);
}

/** A POST of JSON, where something is to be done. */
export async function order(path, value) {
  return send("POST", path, value);
}

export async function remove(path) {
  return (await request(path, { method: "DELETE" })).json();
}

async function send(method, path, value) {
  const headers = { "Content-Type": "application/json" };
  return (await request(path, { method, body: JSON.stringify(value), headers })).json();
}

/** A path with the parameters that are not empty. */
export function withQuery(path, parameters) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== null && value !== undefined && value !== "") query.set(name, value);
  }
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}

export function imagePath(result) {
  return `/v1/results/${result.id}/image`;
}

/**
 * Follow the box: onResult(result, trace), onLatest(result, trace), onStatus(status, live), onOpen(), onDown(since), onUp().
 *
 * onOpen comes with the first status of every stream: what happened before it has to be asked for, what happens after
 * it will be told. `since` is the box's time when it was last heard, or null if it never was; onUp follows every onDown
 * once the box is heard again. A browser's own reconnection gives up on some answers and cannot see a pulled cable; so
 * this one closes a stream that is silent or broken, opens another, and asks for the status beside it: a box that has
 * no stream left to give can still be asked now and then (onStatus with `live` false).
 */
export function follow({ onResult, onLatest, onStatus, onOpen, onDown, onUp }) {
  let stream = null;
  let heard = null;
  let down = false;
  let tries = 0;
  let openedAt = 0;
  const started = performance.now();

  function hear() {
    heard = performance.now();
    if (down) {
      down = false;
      onUp();
    }
  }

  function open() {
    openedAt = performance.now();
    const mine = new EventSource("/v1/events");
    let greeted = false;
    stream = mine;
    const tell = (of) => (event) => {
      hear();
      const { result, trace } = JSON.parse(event.data);
      of(result, trace || null);
    };
    mine.addEventListener("result", tell(onResult));
    mine.addEventListener("latest", tell(onLatest));
    mine.addEventListener("status", (event) => {
      tries = 0;
      const status = JSON.parse(event.data);
      setBoxClock(status.at);
      hear();
      onStatus(status, true);
      if (!greeted) onOpen();
      greeted = true;
    });
    mine.addEventListener("error", () => {
      if (stream === mine) reopen();
    });
  }

  function reopen() {
    stream.close();
    stream = null;
    tries += 1;
    setTimeout(open, Math.min(RETRY_MS_MAX, 500 * 2 ** Math.min(tries, 4)));
    ask();
  }

  async function ask() {
    // A box that hangs must not collect open questions: browsers keep few connections to one host.
    const patience = new AbortController();
    setTimeout(() => patience.abort(), RETRY_MS_MAX);
    try {
      const status = await getJson("/v1/status", { signal: patience.signal });
      setBoxClock(status.at);
      hear();
      onStatus(status, tries < 2);
    } catch {
      // Silence is noticed below.
    }
  }

  setInterval(() => {
    const now = performance.now();
    const silent_ms = now - (heard === null ? started : heard);
    if (silent_ms > SILENT_MS_MAX && !down) {
      down = true;
      onDown(heard === null ? null : boxNow(heard));
    }
    if (stream !== null && silent_ms > SILENT_MS_MAX && now - openedAt > SILENT_MS_MAX) reopen();
  }, 500);

  open();
}
