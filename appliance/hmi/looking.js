// Where updates come from, how the last look for them went, and who keeps them back.

import { order, post, remove } from "./api.js";
import { ask, nameField, question } from "./ask.js";
import { facts, h, options, shape } from "./dom.js";
import { moment } from "./time.js";
import { chip } from "./trial.js";
import { capital, number } from "./words.js";

const HOLDS = [
  ["", "until somebody releases it"],
  ["3600", "1 hour"],
  ["28800", "8 hours"],
  ["86400", "1 day"],
  ["604800", "7 days"],
];
const WARNINGS = {
  metadata_stale: "Nothing new was signed for a long time",
  clock_untrusted: "The clock of this box cannot be trusted",
};

/** desk: see orders.js. */
export function lookingTile(desk, provisioned, ring, bucket, poll) {
  const title = h("h2", {}, "Looking for updates", chip(lookingState(provisioned, poll)));
  if (!provisioned && !poll) {
    const why = "This box looks for no updates: its configuration names no registry and no root to trust.";
    return [title, h("p", { class: "tile-text" }, why)];
  }
  return [
    title,
    ...(poll ? poll.warnings : []).map(({ code, reason }) =>
      warning(h("span", {}, h("strong", {}, `${WARNINGS[code] || code.replace(/_/g, " ")}.`), ` ${capital(reason)}`)),
    ),
    poll && poll.code ? h("p", { class: "reason-text" }, `${capital(poll.reason)} (${poll.code})`) : null,
    facts([
      ["Last look", poll ? moment(poll.at) : "none yet"],
      ["Asked", poll && poll.origin],
      ["Failed", poll && poll.failures ? `${poll.failures} in a row` : null],
      ["Last answer", poll && poll.code && poll.answered_at ? moment(poll.answered_at) : null],
      ["Signed anew", poll && poll.fresh_at ? moment(poll.fresh_at) : null],
      ["Good until", poll && poll.expires_at ? moment(poll.expires_at) : null],
      ["Next look", poll && poll.next_at ? `not before ${moment(poll.next_at)}` : null],
      ["Ring", ring],
      ["Its place", `${number(bucket)} of 100; a release for 10 % reaches the places below 10`],
    ]),
    provisioned ? lookButton(desk) : null,
  ];
}

function lookingState(provisioned, poll) {
  if (!provisioned) return ["off", "plain"];
  if (!poll) return ["not yet", "plain"];
  if (poll.code) return ["failed", "bad"];
  return poll.warnings.length ? ["warning", "bad"] : ["in order", "good"];
}

function lookButton(desk) {
  const button = h("button", { type: "button", class: "button" }, "Look for updates now");
  button.addEventListener("click", () => {
    button.disabled = true;
    const send = async () => {
      await post("/v1/updates/poll");
      return "the updater was told to look; what it finds is shown here";
    };
    desk.give(send, () => {
      button.disabled = false;
    });
  });
  return button;
}

/** waits: why an update that is ready has not begun. */
export function holdTile(desk, held, waits) {
  return [
    h("h2", {}, "Hold", chip(held ? ["on hold", "bad"] : ["none", "good"])),
    waits ? warning(`${capital(waits)}.`) : null,
    ...(held ? holding(desk, held) : [holdForm(desk)]),
  ];
}

function holding(desk, held) {
  const place = h("div", { class: "orders" });
  const button = h("button", { type: "button", class: "button" }, "Release the hold");
  const back = () => {
    place.replaceChildren(button);
    button.focus();
  };
  const send = async () => {
    await remove("/v1/updates/hold");
    return "updates go on";
  };
  button.addEventListener("click", () => {
    desk.say("");
    ask(
      place,
      question({
        title: "Let updates go on?",
        about: "What is ready begins, and what was proven is switched, at once or in its window.",
        yes: "Yes, release",
        onYes: () => desk.give(send, back),
        onNo: back,
      }),
    );
  });
  place.append(button);
  return [
    facts([
      ["By", held.by],
      ["Reason", held.reason],
      ["Since", moment(held.at)],
      ["Until", held.until === null ? "somebody releases it" : moment(held.until)],
    ]),
    place,
  ];
}

function holdForm(desk) {
  const by = nameField();
  by.required = true;
  by.placeholder = "";
  const reason = h("input", { maxlength: "128", required: true, "aria-label": "Reason" });
  const long = h("select", { "aria-label": "How long" });
  options(long, HOLDS, "");
  const button = h("button", { type: "submit", class: "button" }, "Hold updates");
  const form = h(
    "form",
    { class: "hold-form", "aria-label": "Hold updates" },
    h("p", { class: "tile-text" }, "Keeps updates from beginning and from being switched. A roll back is never held."),
    ...[["Your name", by], ["Reason", reason], ["How long", long]].map(([word, field]) =>
      h("label", { class: "field" }, h("span", {}, word), field),
    ),
    button,
  );
  const send = async () => {
    const for_s = long.value ? Number(long.value) : null;
    await order("/v1/updates/hold", { by: by.value.trim(), reason: reason.value.trim(), for_s });
    return "updates are on hold";
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    button.disabled = true;
    desk.give(send, () => {
      button.disabled = false;
    });
  });
  return form;
}

/** With a silhouette of its own: colour is not the only sign. */
export function warning(...children) {
  return h("p", { class: "waits" }, shape("v-review", "warn-shape"), h("span", {}, children));
}
