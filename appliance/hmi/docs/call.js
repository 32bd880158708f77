// One call: what it takes, a form to try it, the same as a curl line, and what it answers.

import { copyButton, h, options, setText } from "../dom.js";
import { asJson } from "../words.js";
import { curlText } from "./curl.js";
import { row, schemaBlock, typeText } from "./schema.js";
import { markdown } from "./text.js";

const SHOWN_CHARS_MAX = 20000;

export function callBlock(call, openapi) {
  const { operation } = call;
  const form = tryForm(call, openapi);
  return [
    h("div", { class: "description" }, operation.description ? markdown(operation.description) : []),
    form.block,
    h("h3", {}, "Answers"),
    ...Object.entries(operation.responses).map(([status, response]) => answerBlock(status, resolve(response, openapi))),
  ];
}

function resolve(value, openapi) {
  if (!value.$ref) return value;
  return value.$ref
    .slice(2)
    .split("/")
    .reduce((found, name) => found[name], openapi);
}

function answerBlock(status, response) {
  const contents = Object.entries(response.content || {});
  return h(
    "details",
    { class: "response", open: status === "200" },
    h("summary", {}, h("b", {}, status === "default" ? "else" : status), ` ${response.description}`),
    contents.map(([mediaType, { schema, examples }]) =>
      h(
        "div",
        { class: "media" },
        h("p", {}, h("code", {}, mediaType), " ", typeText(schema)),
        schema.properties ? schemaBlock(schema) : null,
        Object.values(examples || {}).map((example) =>
          example.value === undefined ? null : h("pre", {}, asJson(example.value, false)),
        ),
      ),
    ),
  );
}

/** Inputs for parameters and body, the curl line they make, and the answer when sent. */
function tryForm(call, openapi) {
  const parameters = (call.operation.parameters || []).map((each) => ({
    ...each,
    control: parameterControl(each),
  }));
  const body = call.operation.requestBody ? bodyForm(call.operation.requestBody, openapi) : null;
  const curl = h("pre", { class: "curl" });
  const answer = h("div", { class: "tried", "aria-live": "polite" });
  const send = h("button", { type: "button", class: "button primary small" }, "Send");

  const asked = () => ({
    method: call.method.toUpperCase(),
    path: filledPath(call.path, parameters),
    headers: parameters
      .filter(({ in: where, control }) => where === "header" && control.value !== "")
      .map(({ name, control }) => [name, control.value]),
    body: body ? body.value() : null,
  });
  const refresh = () => setText(curl, curlText(window.location.origin, asked()));
  const block = h(
    "form",
    { class: "try" },
    parameters.length
      ? h(
          "div",
          { class: "wide" },
          h(
            "table",
            { class: "fields" },
            h(
              "tbody",
              {},
              parameters.map(({ name, schema, required, description, in: where, control }) =>
                row(name, schema, required, [description, where === "header" ? "header" : ""].filter(Boolean).join("; "), control),
              ),
            ),
          ),
        )
      : null,
    body ? body.block : null,
    h("div", { class: "curl-block" }, curl, copyButton("Copy", () => curl.textContent)),
    h("p", { class: "send" }, send),
    answer,
  );
  block.addEventListener("input", refresh);
  block.addEventListener("change", refresh);
  block.addEventListener("submit", (event) => event.preventDefault());
  send.addEventListener("click", async () => {
    send.disabled = true;
    answer.replaceChildren(...(await sent(asked())));
    send.disabled = false;
  });
  refresh();
  return { block };
}

function parameterControl({ name, schema, example, required }) {
  const label = { "aria-label": name };
  if (schema.enum || schema.type === "boolean") {
    const select = h("select", label);
    const values = schema.enum || ["true", "false"];
    options(select, [...(required ? [] : [["", ""]]), ...values.map((value) => [String(value), String(value)])]);
    select.value = example === undefined ? "" : String(example);
    return select;
  }
  const input = h("input", { ...label, autocomplete: "off" });
  if (example !== undefined) input.value = String(example);
  return input;
}

function filledPath(path, parameters) {
  let filled = path;
  const query = new URLSearchParams();
  for (const { name, in: where, control } of parameters) {
    if (where === "path") filled = filled.replace(`{${name}}`, encodeURIComponent(control.value));
    if (where === "query" && control.value !== "") query.set(name, control.value);
  }
  const text = query.toString();
  return text ? `${filled}?${text}` : filled;
}

function bodyForm(requestBody, openapi) {
  const kinds = Object.entries(requestBody.content);
  const kind = h("select", { "aria-label": "Content-Type" });
  options(
    kind,
    kinds.map(([mediaType]) => [mediaType, mediaType]),
  );
  const place = h("div", { class: "body-place" });
  let current = null;
  const choose = () => {
    const [mediaType, content] = kinds.find(([name]) => name === kind.value);
    current = bodyControl(mediaType, content, openapi);
    place.replaceChildren(...current.blocks);
  };
  kind.addEventListener("change", choose);
  choose();
  return {
    block: h("div", { class: "body" }, h("label", { class: "kind" }, h("b", {}, "Body"), kind), place),
    value: () => current.value(),
  };
}

function bodyControl(mediaType, { schema, examples }, openapi) {
  const example = Object.values(examples || {})[0] || {};
  const resolved = resolve(schema, openapi);
  const type = schema.$ref ? [h("p", {}, typeText(schema))] : [];
  if (mediaType === "multipart/form-data") return formControl(resolved, type);
  if (resolved.format === "binary") return fileControl(mediaType, example.externalValue);
  const area = h("textarea", { rows: 6, spellcheck: "false", "aria-label": "Body" });
  area.value = example.value === undefined ? "" : JSON.stringify(example.value, null, 1);
  return { blocks: [...type, area], value: () => ({ kind: "text", mediaType, text: area.value }) };
}

function fileControl(mediaType, exampleUrl) {
  const file = h("input", { type: "file", "aria-label": "File" });
  const blocks = [file];
  if (exampleUrl) {
    const name = exampleUrl.split("/").pop();
    blocks.push(h("p", {}, "Without a file: ", h("a", { href: exampleUrl, download: name }, name), "."));
  }
  return {
    blocks,
    value: () => ({ kind: "file", mediaType, file: file.files[0] || null, exampleUrl: exampleUrl || null }),
  };
}

function formControl(schema, type) {
  const required = schema.required || [];
  const fields = Object.entries(schema.properties).map(([name, property]) => {
    const many = property.type === "array";
    const isFile = (many ? property.items : property).format === "binary";
    const input = h("input", { type: isFile ? "file" : "text", multiple: many, "aria-label": name, autocomplete: "off" });
    return { name, property, isFile, input };
  });
  const table = h(
    "table",
    { class: "fields" },
    h(
      "tbody",
      {},
      fields.map(({ name, property, input }) => row(name, property, required.includes(name), "", input)),
    ),
  );
  const filled = () =>
    fields.flatMap(({ name, isFile, input }) => {
      if (isFile) return [...input.files].map((file) => ({ name, file }));
      return input.value === "" ? [] : [{ name, text: input.value }];
    });
  const files = fields.filter((field) => field.isFile).map((field) => field.name);
  return { blocks: [...type, h("div", { class: "wide" }, table)], value: () => ({ kind: "form", fields: filled(), files }) };
}

async function sent({ method, path, headers, body }) {
  const init = { method, headers: Object.fromEntries(headers) };
  const patience = new AbortController();
  init.signal = patience.signal;
  try {
    if (body) await fill(init, body);
    const started = performance.now();
    const response = await fetch(path, init);
    const took_ms = performance.now() - started;
    const mediaType = (response.headers.get("Content-Type") || "").split(";")[0];
    const head = h(
      "p",
      { class: response.ok ? "status good" : "status bad" },
      `${response.status} ${response.statusText}, ${mediaType || "no body"}, ${Math.round(took_ms)} ms`,
    );
    if (mediaType === "text/event-stream") {
      const start = await firstOf(response);
      patience.abort();
      return [head, h("pre", {}, start)];
    }
    if (mediaType.startsWith("image/")) {
      const url = URL.createObjectURL(await response.blob());
      const image = h("img", { src: url, alt: "The answer" });
      image.addEventListener("load", () => URL.revokeObjectURL(url));
      return [head, image];
    }
    const text = await response.text();
    return [head, text ? h("pre", {}, pretty(text, mediaType)) : ""];
  } catch (error) {
    return [h("p", { class: "status bad" }, error.message)];
  }
}

async function fill(init, body) {
  if (body.kind === "form") {
    init.body = new FormData();
    for (const { name, file, text } of body.fields) init.body.append(name, file || text);
    return;
  }
  init.headers["Content-Type"] = body.mediaType;
  if (body.kind === "text") init.body = body.text;
  else if (body.file) init.body = body.file;
  else if (body.exampleUrl) init.body = await (await fetch(body.exampleUrl)).blob();
  else throw new Error("Choose a file first.");
}

/** What a stream says first; it would never end. */
async function firstOf(response) {
  const { value } = await response.body.getReader().read();
  return `${new TextDecoder().decode(value).slice(0, SHOWN_CHARS_MAX)}\n...`;
}

function pretty(text, mediaType) {
  const shown = /json$/.test(mediaType) ? asJson(JSON.parse(text), false) : text;
  return shown.length > SHOWN_CHARS_MAX ? `${shown.slice(0, SHOWN_CHARS_MAX)}\n...` : shown;
}
