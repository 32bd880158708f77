// Orders that people give on the Updates page: a question first, and in words how it went.

import { order } from "./api.js";
import { ask, question } from "./ask.js";
import { h } from "./dom.js";
import { problemText } from "./results.js";
import { wayBack, what } from "./trial.js";

/** look(): shows what an order changed. Elements `said` and `done` belong above what the orders are about. */
export function orderDesk(look) {
  const said = h("p", { class: "banner problem", role: "alert", hidden: true });
  const done = h("p", { class: "banner done", role: "status", hidden: true });

  function show(element, text) {
    element.textContent = text;
    element.hidden = !text;
    if (text) element.scrollIntoView({ block: "nearest" });
  }

  function say(text) {
    show(said, text);
    show(done, "");
  }

  /** send() resolves to what was done, in words; after() puts back what stood there. */
  async function give(send, after) {
    say("");
    try {
      show(done, `Done: ${await send()}.`);
    } catch (error) {
      say(problemText(error));
    }
    after();
    await look();
  }

  /** A button for each choice; a touch asks first. */
  function buttons(choices) {
    const place = h("div", { class: "orders" });
    const back = (word) => {
      place.replaceChildren(...choices.map((choice) => button(place, choice, back)));
      const from = [...place.children].find((each) => each.textContent === word);
      if (from) from.focus();
    };
    back();
    return place;
  }

  function button(place, choice, back) {
    const element = h("button", { type: "button", class: "button" }, choice.word);
    const send = async (by) => (await order(choice.path, by ? { by } : {})).outcome;
    element.addEventListener("click", () => {
      say("");
      const onYes = (by) => give(() => send(by), back);
      ask(place, question({ ...choice, named: true, onYes, onNo: () => back(choice.word) }));
    });
    return element;
  }

  return { said, done, say, give, buttons };
}

/** What may be ordered about a roll-out that is going on. */
export function choicesOf(rollout) {
  const path = `/v1/rollouts/${rollout.id}`;
  const choices = [];
  if (rollout.state === "running") {
    choices.push({
      word: "Promote now",
      title: `Let ${what(rollout)} serve now?`,
      about: "From the next input on, whatever the trial has not shown yet.",
      yes: "Yes, promote",
      path: `${path}/promote`,
    });
  }
  if (rollout.state === "running" || rollout.state === "loading") {
    choices.push({
      word: "Reject",
      title: `End the trial of ${what(rollout)}?`,
      about: "What serves goes on serving, and this box does not take it again.",
      yes: "Yes, reject",
      path: `${path}/reject`,
    });
  }
  return rollout.serves ? [...choices, backChoice(rollout)] : choices;
}

/** Going back: of everything that the roll-out brought. */
export function backChoice(rollout) {
  const [first] = rollout.models;
  const alone = rollout.models.length === 1 && !rollout.configuration && first.before;
  return {
    word: alone ? `Roll back to version ${first.before}` : "Roll back",
    title: `Take ${what(rollout)} back?`,
    about: `Then ${wayBack(rollout)}. This box does not take ${what(rollout)} again.`,
    yes: "Yes, roll back",
    path: `/v1/rollouts/${rollout.id}/roll-back`,
  };
}
