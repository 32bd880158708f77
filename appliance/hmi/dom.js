// Building elements. Everything that comes from outside (part numbers, sources, reasons) becomes a text node or an
// attribute here and never markup.

const SVG = "http://www.w3.org/2000/svg";

export const VERDICTS = {
  ok: "OK",
  ng: "NG",
  review: "REVIEW",
  error: "ERROR",
  none: "NONE",
};

/** An element: properties starting with `on` are listeners, true and false switch attributes, null leaves them out. */
export function h(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties || {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** One of the shapes defined in index.html. */
export function shape(id, className) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", className);
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#${id}`);
  svg.append(use);
  return svg;
}

/** A verdict as shape, word and colour, for tables and lists. */
export function badge(verdict) {
  const known = VERDICTS[verdict] ? verdict : "none";
  return h("span", { class: `badge v-${known}` }, shape(`v-${known}`, "v-shape"), VERDICTS[known]);
}

/** A list of terms and values, leaving out what is null. */
export function facts(pairs) {
  return h(
    "dl",
    { class: "facts" },
    pairs
      .filter(([, value]) => value !== null && value !== undefined && value !== "")
      .map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value))),
  );
}

/** Change a text only when it differs: screens of many sources repaint less. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function options(select, values, chosen) {
  select.replaceChildren(...values.map(([value, text]) => h("option", { value }, text)));
  if (values.some(([value]) => value === chosen)) select.value = chosen;
}

/** Put `text` on the clipboard. Outside a secure context only the old way works. */
export async function copy(text) {
  if (navigator.clipboard && window.isSecureContext) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // Refused, for example in a kiosk without the permission: the old way may still work.
    }
  }
  const area = h("textarea", { class: "only-heard", "aria-hidden": "true" });
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}

export function copyButton(label, text) {
  const button = h("button", { type: "button", class: "button small" }, label);
  button.addEventListener("click", async () => {
    setText(button, (await copy(text())) ? "Copied" : "Select the text and copy it");
    setTimeout(() => setText(button, label), 2000);
  });
  return button;
}
