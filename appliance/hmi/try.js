// The Try page: an input of one's own, judged, with the call that did it.

import { getBlob, getJson, imagePath, post, withQuery } from "./api.js";
import { callText, LANGUAGES } from "./calls.js";
import { copyButton, h, options, setText, shape } from "./dom.js";
import { classBars, jsonBlock, pictureBlock, resultFacts, verdictBlock } from "./findings.js";
import { TRY_SOURCE } from "./live.js";
import { problemText } from "./results.js";
import { labelText, number } from "./words.js";

export function tryPage(root) {
  const model = h("select", { "aria-label": "Model" });
  const about = h("p", { class: "about" });
  const file = h("input", { type: "file", class: "only-heard", id: "try-file" });
  const snap = h("input", {
    type: "file",
    class: "only-heard",
    id: "try-snap",
    accept: "image/jpeg,image/png",
    capture: "environment",
  });
  const dropText = h("span", {});
  const drop = h(
    "div",
    { class: "drop", id: "try-drop" },
    shape("i-drop", "icon"),
    dropText,
    file,
    h("label", { for: "try-file", class: "button primary" }, "Choose a file"),
  );
  const photo = h("button", { type: "button", class: "button" }, "Use the camera");
  const snapLabel = h("label", { for: "try-snap", class: "button" }, "Take a photo");
  const example = h("button", { type: "button", class: "button" }, "Use an example");
  const ways = h("div", { class: "ways" }, example, snap, snapLabel, photo);
  const video = h("video", { playsinline: true, muted: true, autoplay: true });
  const shoot = h("button", { type: "button", class: "button primary" }, "Judge this picture");
  const stop = h("button", { type: "button", class: "button" }, "Close the camera");
  const camera = h("div", { class: "camera", hidden: true }, video, h("div", { class: "ways" }, shoot, stop));
  const fields = {
    "X-Part": h("input", { autocomplete: "off", maxlength: "128" }),
    "X-Lot": h("input", { autocomplete: "off", maxlength: "128" }),
    "X-Recipe": h("input", { autocomplete: "off", maxlength: "64" }),
  };
  const extras = h(
    "details",
    { class: "extras" },
    h("summary", {}, "Part, lot and recipe"),
    Object.entries(fields).map(([name, field]) => h("label", {}, h("span", {}, name.slice(2)), field)),
  );
  const problem = h("p", { class: "banner problem", role: "alert", hidden: true });
  const answer = h("div", { class: "answer", "aria-live": "polite" });
  const calls = h("div", { class: "calls", hidden: true });
  const hint = h("p", { class: "hint" }, "The verdict, what was found and the call to repeat it appear here.");
  root.append(
    h(
      "div",
      { class: "ask" },
      h("label", { class: "field" }, h("span", {}, "Model"), model),
      about,
      drop,
      ways,
      camera,
      extras,
    ),
    h("div", { class: "told" }, problem, hint, answer),
    calls,
  );

  let models = [];
  let shownModels = "";
  let channels = 3;
  let asked = 0;
  let shownUrl = null;
  let stream = null;

  const current = () => models.find((each) => each.name === model.value) || null;
  const takesWindows = () => (current() || {}).kind === "window";

  function describe() {
    const chosen = current();
    const windows = takesWindows();
    file.setAttribute("accept", windows ? ".json,application/json" : "image/jpeg,image/png");
    setText(dropText, windows ? "Drop a JSON file of readings here, or" : "Drop a picture here, or");
    setText(example, windows ? "Use made-up readings" : "Use an example");
    const hasCamera = Boolean(navigator.mediaDevices && navigator.mediaDevices.getUserMedia);
    photo.hidden = windows || !hasCamera;
    snapLabel.hidden = windows || !window.matchMedia("(pointer: coarse)").matches;
    if (windows) closeCamera();
    if (!chosen) return;
    const takes = windows
      ? `${chosen.window_size} rows at ${chosen.rate_hz} Hz: {"rows": [[x, y, z], ...]}`
      : `JPEG or PNG. Knows ${chosen.labels.map(labelText).join(", ")}.`;
    const ready = chosen.state === "ready";
    setText(about, ready ? `${chosen.title}. ${takes}` : `${chosen.state}: ${chosen.reason || ""}`);
  }

  /** The fields that are filled in, as headers. */
  function headers() {
    return Object.entries(fields)
      .map(([name, field]) => [name, field.value.trim()])
      .filter(([, value]) => value);
  }

  async function judge(input, name) {
    if (!input || !current()) return;
    asked += 1;
    const mine = asked;
    problem.hidden = true;
    hint.hidden = true;
    root.classList.add("busy");
    try {
      const mark = headers();
      if (mark.some(([, value]) => /[^\x20-\x7e]/.test(value))) {
        throw new Refusal("Part, lot and recipe travel in HTTP headers here: use plain ASCII characters.");
      }
      const windows = takesWindows();
      const body = windows ? await windowBody(input) : input;
      const type = windows ? "application/json" : input.type || "application/octet-stream";
      const path = `/v1/predict/${encodeURIComponent(current().name)}`;
      const sent = { "Content-Type": type, "X-Source": TRY_SOURCE, ...Object.fromEntries(mark) };
      const before = performance.now();
      const result = await post(path, body, sent);
      if (mine !== asked) return;
      show(result, body, name, performance.now() - before, {
        url: window.location.origin + path,
        type,
        file: name,
        headers: mark,
      });
    } catch (error) {
      if (mine !== asked) return;
      answer.replaceChildren();
      calls.hidden = true;
      complain(error);
    } finally {
      if (mine === asked) root.classList.remove("busy");
    }
  }

  function complain(error) {
    setText(problem, error instanceof Refusal ? error.message : problemText(error));
    problem.hidden = false;
    bringIntoView(problem);
  }

  function show(result, body, name, took_ms, call) {
    if (shownUrl) URL.revokeObjectURL(shownUrl);
    shownUrl = URL.createObjectURL(body);
    answer.replaceChildren(
      verdictBlock(result),
      takesWindows() ? "" : pictureBlock(shownUrl, result),
      classBars(result),
      resultFacts(result),
      h(
        "p",
        { class: "links" },
        `Answered in ${number(took_ms)} ms. `,
        h("a", { href: shownUrl, download: name }, `Save ${name}`),
      ),
      jsonBlock(result),
    );
    showCalls(call);
    bringIntoView(answer);
  }

  function showCalls(call) {
    const text = h("pre", { tabindex: "0", id: "call-text", role: "tabpanel" });
    let language = "curl";
    const tabs = LANGUAGES.map(([id, title]) =>
      h("button", { type: "button", role: "tab", id: `call-${id}`, "aria-controls": "call-text" }, title),
    );
    const choose = (index, focus) => {
      language = LANGUAGES[index][0];
      tabs.forEach((tab, at) => {
        tab.setAttribute("aria-selected", String(at === index));
        tab.tabIndex = at === index ? 0 : -1;
      });
      text.setAttribute("aria-labelledby", tabs[index].id);
      setText(text, callText(language, call));
      if (focus) tabs[index].focus();
    };
    tabs.forEach((tab, index) => {
      tab.addEventListener("click", () => choose(index, false));
      tab.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (step) choose((index + step + tabs.length) % tabs.length, true);
      });
    });
    calls.replaceChildren(
      h("h2", {}, "The same call"),
      h(
        "div",
        { class: "call-bar" },
        h("div", { class: "languages", role: "tablist", "aria-label": "Language" }, tabs),
        copyButton("Copy", () => callText(language, call)),
      ),
      text,
    );
    calls.hidden = false;
    choose(0, false);
  }

  async function useExample() {
    if (takesWindows()) {
      await judge(madeUpReadings(current().window_size, channels), "window.json");
      return;
    }
    try {
      const { results } = await getJson(withQuery("/v1/results", { model: model.value, limit: 50 }));
      const kept = results.filter((result) => result.has_image);
      const last = kept.find((result) => result.source !== TRY_SOURCE) || kept[0];
      if (!last) throw new Refusal("No source has sent a picture for this model yet: choose a file.");
      const blob = await getBlob(imagePath(last));
      await judge(blob, blob.type === "image/png" ? "example.png" : "example.jpg");
    } catch (error) {
      complain(error);
    }
  }

  async function openCamera() {
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      video.srcObject = stream;
      showCamera(true);
    } catch (error) {
      complain(new Refusal(`The camera is not available: ${error.message}`));
    }
  }

  function closeCamera() {
    if (stream) stream.getTracks().forEach((track) => track.stop());
    stream = null;
    video.srcObject = null;
    showCamera(false);
  }

  /** In the place of the drop frame: on a small panel both would not fit. */
  function showCamera(on) {
    camera.hidden = !on;
    drop.hidden = on;
    ways.hidden = on;
  }

  function shootPicture() {
    const frame = document.createElement("canvas");
    frame.width = video.videoWidth;
    frame.height = video.videoHeight;
    frame.getContext("2d").drawImage(video, 0, 0);
    frame.toBlob((blob) => judge(blob, "photo.jpg"), "image/jpeg", 0.92);
  }

  const takeFile = (input) => {
    const [picked] = input.files;
    if (picked) judge(picked, picked.name);
    input.value = ""; // The same file chosen again is a new wish.
  };
  file.addEventListener("change", () => takeFile(file));
  snap.addEventListener("change", () => takeFile(snap));
  example.addEventListener("click", useExample);
  photo.addEventListener("click", openCamera);
  shoot.addEventListener("click", shootPicture);
  stop.addEventListener("click", closeCamera);
  model.addEventListener("change", describe);
  // The whole page takes the drop: a file let go beside the frame must not make the browser leave for it.
  for (const name of ["dragenter", "dragover"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      if (!root.hidden) drop.classList.add("over");
    });
  }
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) drop.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const dropped = event.dataTransfer && event.dataTransfer.files[0];
    if (dropped && !root.hidden) judge(dropped, dropped.name);
  });
  describe();

  return {
    onResult(_result, trace) {
      if (trace) channels = trace.channels.length;
    },

    onStatus(status) {
      const names = new Set();
      models = status.models.filter((each) => !names.has(each.name) && names.add(each.name));
      const title = ({ name, state }) => (state === "ready" ? name : `${name} (${state})`);
      const offered = models.map((each) => [each.name, title(each)]);
      if (JSON.stringify(offered) === shownModels) return; // An open list must not close at every beat.
      shownModels = JSON.stringify(offered);
      const first = models.find((each) => each.state === "ready" && each.kind === "image") || models[0];
      options(model, offered, model.value || (first && first.name));
      describe();
    },

    show() {},
    hide: closeCamera,
    async load() {},
  };
}

/** Scroll only when the start of the answer cannot be seen. */
function bringIntoView(element) {
  const { top } = element.getBoundingClientRect();
  if (top < document.getElementById("main").getBoundingClientRect().top || top > window.innerHeight * 0.7) {
    element.scrollIntoView({ block: "start" });
  }
}

/** Something the page itself refuses, in words for the user. */
class Refusal extends Error {}

/** The JSON body for a file of readings: {"rows": ...}, {"values": ...} as published over MQTT, or the bare array. */
async function windowBody(input) {
  let content;
  try {
    content = JSON.parse(await input.text());
  } catch (error) {
    throw new Refusal(`The file is not JSON: ${error.message}`);
  }
  const rows = Array.isArray(content) ? content : (content && (content.rows || content.values)) || null;
  if (!Array.isArray(rows)) throw new Refusal('The file holds no readings: expected {"rows": [[x, y, z], ...]}.');
  return new Blob([JSON.stringify({ rows })], { type: "application/json" });
}

/** Noise no machine made: enough to see the shape of a call and of its answer. */
function madeUpReadings(size, channels) {
  const noise = () => Math.round((Math.random() + Math.random() + Math.random() - 1.5) * 1000) / 1000;
  const rows = Array.from({ length: size }, () => Array.from({ length: channels }, noise));
  return new Blob([JSON.stringify({ rows })], { type: "application/json" });
}
