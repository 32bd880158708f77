// The little Markdown that the document uses: paragraphs, tables (folded), **bold**, `code` and [links](/path). Never markup.

import { h } from "../dom.js";

const INLINE = /(`[^`]+`|\*\*[^*]+\*\*|\[[^\]]+\]\(\/[^)]*\))/;

export function inline(text) {
  return text
    .split(INLINE)
    .filter(Boolean)
    .map((part) => {
      if (part.startsWith("`")) return h("code", {}, part.slice(1, -1));
      if (part.startsWith("**")) return h("strong", {}, part.slice(2, -2));
      const link = /^\[([^\]]+)\]\((\/[^)]*)\)$/.exec(part);
      return link ? h("a", { href: link[2] }, link[1]) : part;
    });
}

/** A block per paragraph or table. */
export function markdown(text) {
  return text
    .trim()
    .split(/\n{2,}/)
    .map((block) => (block.startsWith("|") ? table(block) : h("p", {}, inline(block))));
}

function table(block) {
  const rows = block.split("\n").map((line) => line.split("|").slice(1, -1).map((cell) => cell.trim()));
  const [head, , ...body] = rows;
  return h(
    "details",
    { class: "codes" },
    h("summary", {}, `${body.length} rows: ${head.join(", ")}`),
    h(
      "div",
      { class: "wide" },
      h(
        "table",
        {},
        h("thead", {}, h("tr", {}, head.map((cell) => h("th", {}, cell)))),
        h("tbody", {}, body.map((cells) => h("tr", {}, cells.map((cell) => h("td", {}, inline(cell)))))),
      ),
    ),
  );
}
