// The page at /docs: reads /openapi.json of this box and shows its calls, each of which can be tried here.

import { getJson } from "../api.js";
import { h, setText } from "../dom.js";
import { callBlock } from "./call.js";
import { schemaBlock } from "./schema.js";
import { markdown } from "./text.js";

document.documentElement.setAttribute("data-started", "");

const byId = (id) => document.getElementById(id);
const METHODS = ["get", "post", "put", "delete", "patch"];

/** Every operation as {id, method, path, fragment, tag, summary, operation}, in the order of the document. */
function callsOf(openapi) {
  const calls = [];
  for (const [key, methods] of Object.entries(openapi.paths)) {
    // What follows # tells body forms apart; it is not part of the address.
    const [path, fragment] = key.split("#");
    for (const method of METHODS.filter((each) => methods[each])) {
      const operation = methods[method];
      calls.push({
        id: operation.operationId,
        method,
        path,
        fragment: fragment || "",
        tag: operation.tags[0],
        summary: operation.summary,
        operation,
      });
    }
  }
  return calls;
}

function pathText({ path, fragment }) {
  const parts = path.split(/(\{[^}]*\})/).filter(Boolean);
  return h(
    "code",
    { class: "path" },
    parts.map((part) => (part.startsWith("{") ? h("var", {}, part) : part)),
    fragment ? h("span", { class: "fragment" }, `#${fragment}`) : null,
  );
}

function method(name) {
  return h("span", { class: `method method-${name}` }, name.toUpperCase());
}

function section(call, openapi) {
  const inside = h("div", { class: "call-body" });
  const block = h(
    "details",
    { class: "call", id: call.id },
    h("summary", {}, method(call.method), pathText(call), h("span", { class: "call-summary" }, call.summary)),
    inside,
  );
  // Built when it is opened: a small panel need not lay out sixty forms.
  block.addEventListener("toggle", () => {
    if (block.open && !inside.hasChildNodes()) inside.append(...callBlock(call, openapi));
  });
  return block;
}

function contents(tags, calls) {
  return tags.map((tag) =>
    h(
      "div",
      { class: "contents-tag" },
      h("h2", {}, tag.name),
      h(
        "ul",
        {},
        calls
          .filter((call) => call.tag === tag.name)
          .map((call) =>
            h("li", { "data-words": words(call) }, h("a", { href: `#${call.id}` }, method(call.method), call.id)),
          ),
      ),
    ),
  );
}

function words({ id, path, fragment, summary, tag }) {
  return [id, path, fragment, summary, tag].join(" ").toLowerCase();
}

function show(openapi) {
  const calls = callsOf(openapi);
  setText(byId("title"), `${openapi.info.title} ${openapi.info.version}`);
  document.title = openapi.info.title;
  byId("contents").append(
    ...contents(openapi.tags, calls),
    h("div", { class: "contents-tag" }, h("h2", {}, h("a", { href: "#schemas" }, "Schemas"))),
  );
  byId("calls").append(
    h("section", { class: "intro" }, markdown(openapi.info.description)),
    ...openapi.tags.map((tag) =>
      h(
        "section",
        { class: "tag" },
        h("h1", {}, tag.name),
        h("p", { class: "tag-text" }, tag.description),
        calls.filter((call) => call.tag === tag.name).map((call) => section(call, openapi)),
      ),
    ),
    h(
      "section",
      { class: "tag", id: "schemas" },
      h("h1", {}, "Schemas"),
      Object.entries(openapi.components.schemas).map(([name, schema]) =>
        h(
          "details",
          { class: "call", id: `schema-${name}` },
          h("summary", {}, h("code", { class: "path" }, name)),
          h("div", { class: "call-body" }, schemaBlock(schema)),
        ),
      ),
    ),
  );
}

function find() {
  const wanted = byId("filter").value.trim().toLowerCase();
  for (const tag of document.querySelectorAll(".contents-tag")) {
    const items = [...tag.querySelectorAll("li")];
    for (const item of items) item.hidden = !item.dataset.words.includes(wanted);
    tag.hidden = items.length > 0 && items.every((item) => item.hidden);
  }
}

/** Open what the address names. */
function route() {
  const target = byId(decodeURIComponent(window.location.hash.slice(1)));
  for (const link of document.querySelectorAll("#contents a")) {
    if (link.getAttribute("href") === window.location.hash) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
  if (!target) return;
  if (target.tagName === "DETAILS") target.open = true;
  target.scrollIntoView();
}

async function start() {
  try {
    show(await getJson("/openapi.json"));
  } catch (error) {
    byId("problem").hidden = false;
    setText(byId("problem"), error.message);
    return;
  }
  byId("filter").addEventListener("input", find);
  window.addEventListener("hashchange", route);
  route();
}

start();
