// Schemas in words: a table of fields for an object, a short name for everything else.

import { h } from "../dom.js";
import { inline, markdown } from "./text.js";

/** The name in a reference, or null. */
function refName(schema) {
  return schema.$ref ? schema.$ref.split("/").pop() : null;
}

/** `string`, `array of Result`, `Timing or null`: text and links. */
export function typeText(schema) {
  const name = refName(schema);
  if (name) return [h("a", { href: `#schema-${name}` }, name)];
  const choices = schema.anyOf || schema.oneOf;
  if (choices) return choices.flatMap((each, index) => [...(index ? [" or "] : []), ...typeText(each)]);
  if (schema.enum) return [schema.enum.map((value) => JSON.stringify(value)).join(" | ")];
  const types = [].concat(schema.type || "any");
  return types.flatMap((type, index) => [...(index ? [" or "] : []), ...oneType(type, schema)]);
}

function oneType(type, schema) {
  if (type === "array" && schema.items) return ["array of ", ...typeText(schema.items)];
  if (schema.format === "binary" || schema.contentEncoding) return [schema.contentEncoding || "bytes"];
  return [type];
}

function notes(schema) {
  const found = [];
  if (schema.default !== undefined && schema.default !== false && !Array.isArray(schema.default)) {
    found.push(`${JSON.stringify(schema.default)} when left out`);
  }
  if (schema.minimum !== undefined) found.push(`at least ${schema.minimum}`);
  if (schema.maximum !== undefined) found.push(`at most ${schema.maximum}`);
  if (schema.maxLength !== undefined) found.push(`at most ${schema.maxLength} characters`);
  return found.join(", ");
}

/** A row: name, type, what it is. */
export function row(name, schema, required, description, control) {
  const about = [description || schema.description || "", notes(schema)].filter(Boolean).join("; ");
  return h(
    "tr",
    {},
    h("th", { scope: "row" }, h("code", {}, name), required ? h("span", { class: "required" }, "required") : null),
    h("td", {}, h("span", { class: "type" }, typeText(schema)), inline(about)),
    control ? h("td", { class: "control" }, control) : null,
  );
}

export function schemaBlock(schema) {
  const name = refName(schema);
  if (name) return h("p", {}, typeText(schema));
  const about = schema.description ? markdown(schema.description) : [];
  if (!schema.properties) return h("div", {}, about, h("p", {}, typeText(schema)));
  const required = schema.required || [];
  return h(
    "div",
    {},
    about,
    h(
      "div",
      { class: "wide" },
      h(
        "table",
        { class: "fields" },
        h(
          "tbody",
          {},
          Object.entries(schema.properties).map(([field, value]) => row(field, value, required.includes(field))),
        ),
      ),
    ),
  );
}
