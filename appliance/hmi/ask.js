// A question before something is done, in place of the button that would do it.

import { h } from "./dom.js";

let lastName = ""; // Whoever answers two questions in a row need not say twice who they are.

/**
 * title, about: what would happen. yes: the word on the button that does it. named: whether to ask who it is.
 * onYes(name) does it and may take its time; onNo puts back what stood there.
 */
export function question({ title, about, yes, named = false, onYes, onNo }) {
  const doIt = h("button", { type: "button", class: "button primary" }, yes);
  const leave = h("button", { type: "button", class: "button" }, "No, leave it");
  const name = named ? nameField() : null;
  leave.addEventListener("click", onNo);
  doIt.addEventListener("click", () => {
    doIt.disabled = true;
    leave.disabled = true;
    if (name) lastName = name.value.trim();
    onYes(name ? lastName : "");
  });
  return h(
    "div",
    { class: "confirm", role: "group", "aria-label": "Confirm" },
    h("p", {}, h("strong", {}, title)),
    h("p", { class: "tile-text" }, about),
    name ? h("label", { class: "field" }, h("span", {}, "Your name"), name) : null,
    h("div", { class: "ways" }, doIt, leave),
  );
}

/** Show it and take the focus to its "No": a second touch at the same place must not answer the question. */
export function ask(place, asked) {
  place.replaceChildren(asked);
  asked.querySelector(".ways .button:last-child").focus();
}

export function nameField() {
  const field = h("input", { autocomplete: "name", maxlength: "128", placeholder: "optional", "aria-label": "Your name" });
  field.value = lastName;
  return field;
}
