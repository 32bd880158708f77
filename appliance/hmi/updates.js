// The Updates page: what is tried, what serves of each model, what came, and the orders that people may give about it.

import { getJson } from "./api.js";
import { h } from "./dom.js";
import { holdTile, lookingTile, warning } from "./looking.js";
import { backChoice, choicesOf, orderDesk } from "./orders.js";
import { blockedTile, historyTile, installsTile } from "./past.js";
import { problemText } from "./results.js";
import { byModel, restList, slotBlock } from "./slots.js";
import { MODES, differences, figures, happens, stateChip, what } from "./trial.js";

const ROLLOUTS = 20;

export function updatesPage(root) {
  const desk = orderDesk(() => {
    known = "";
    return look();
  });
  const trial = h("section", { class: "tile trial", "aria-label": "Roll-out", hidden: true });
  const head = part("div", trialHead);
  const seen = part("div", figures);
  const orders = part("div", (rollout) => [desk.buttons(choicesOf(rollout))]);
  const unlike = part("div", differences); // Below the buttons, which must not move while it grows.
  trial.append(head.element, seen.element, orders.element, unlike.element);
  const looking = tile((...values) => lookingTile(desk, ...values));
  const hold = tile((...values) => holdTile(desk, ...values));
  const installs = tile(installsTile);
  const history = tile(historyTile);
  const blocked = tile(blockedTile);
  const modelTiles = h("div", {});
  const models = new Map(); // Tiles by name.
  const configuration = tile(configurationTile);
  const rest = [configuration, looking, hold, installs, history, blocked].map((each) => each.element);
  root.append(desk.said, desk.done, trial, h("div", { class: "tiles" }, modelTiles, rest));

  let slots = ""; // Of the last status: when it changes, versions have moved.
  let configured = null; // The release whose configuration serves.
  let known = ""; // What the rarer questions were asked for.
  let looks = null; // The look that is on its way.
  let again = false;
  let failed = false; // The last look did, and the page says so.

  /** One at a time: a slow box must not collect open questions. */
  function look() {
    if (root.hidden) return Promise.resolve();
    if (looks) {
      again = true;
      return looks;
    }
    looks = lookOnce().finally(() => {
      looks = null;
    });
    return looks.then(() => (again ? look() : undefined));
  }

  async function lookOnce() {
    again = false;
    const updates = await getJson("/v1/updates");
    const going = updates.rollout === null ? null : await getJson(`/v1/rollouts/${updates.rollout}`);
    const { poll, ...others } = updates;
    const news = JSON.stringify([others, going && going.state, slots]);
    if (news !== known) {
      const [{ rollouts }, { versions }] = await Promise.all([
        getJson(`/v1/rollouts?limit=${ROLLOUTS}`),
        getJson("/v1/updates/versions"),
      ]);
      known = news;
      showModels(versions, rollouts);
      configuration.show(configured, toTakeBack(rollouts.find((each) => each.serves && each.configuration)));
      history.show(rollouts.filter((each) => each.id !== updates.rollout));
      installs.show(updates.installs);
      blocked.show(updates.blocked);
    }
    showTrial(going);
    looking.show(updates.provisioned, updates.ring, updates.bucket, poll);
    hold.show(updates.hold, going && going.waits === updates.waits ? null : updates.waits);
    if (failed) desk.say("");
    failed = false;
  }

  /** That the box is away is said above every page. */
  async function lookOrSay() {
    try {
      await look();
    } catch (error) {
      if (error.status === 0) return;
      desk.say(problemText(error));
      failed = true;
    }
  }

  function showTrial(going) {
    trial.hidden = going === null;
    if (going === null) return;
    const { id, state, models: names, serves, configuration } = going;
    head.show({ ...going, elapsed_s: 0, probation_s: 0, evidence: [] });
    seen.show(going);
    unlike.show(going);
    orders.show({ id, state, models: names, serves, configuration });
  }

  function showModels(versions, rollouts) {
    const found = byModel(versions);
    for (const model of found) {
      if (!models.has(model.name)) {
        models.set(model.name, tile(modelTile));
        modelTiles.append(models.get(model.name).element);
      }
      models.get(model.name).show(model, broughtBy(model, rollouts));
    }
    for (const [name, { element }] of models) {
      if (found.some((model) => model.name === name)) continue;
      element.remove();
      models.delete(name);
    }
  }

  function modelTile(model, rollout) {
    return [
      h("h2", {}, model.name),
      model.title ? h("p", { class: "tile-text" }, model.title) : null,
      ...model.slots.map(slotBlock),
      model.rest.length ? restList(model.rest) : null,
      rollout ? desk.buttons([backChoice(rollout)]) : null,
    ];
  }

  function configurationTile(serves, rollout) {
    if (!serves) return [];
    return [
      h("h2", {}, "Configuration"),
      h(
        "p",
        { class: "tile-text" },
        `Routes, rules or recipes of release ${serves.number} of ring ${serves.ring} serve over the file of this box.`,
      ),
      serves.problem ? h("p", { class: "reason-text" }, serves.problem) : null,
      rollout ? desk.buttons([backChoice(rollout)]) : null,
    ];
  }

  return {
    onResult() {},
    onStatus(status) {
      configured = status.configuration;
      slots = JSON.stringify([status.models.map(standing), configured]);
      lookOrSay();
    },
    load: look,
    show: lookOrSay,
    hide() {
      desk.say("");
    },
  };
}

function trialHead(rollout) {
  const release = rollout.number ? `Release ${rollout.number} of ring ${rollout.ring}, ` : "";
  return [
    h("h2", {}, what(rollout), stateChip(rollout.state)),
    h("p", { class: "tile-text" }, `${release}${MODES[rollout.mode]}. ${happens(rollout)}`),
    rollout.waits ? warning(`It waits: ${rollout.waits}`) : null,
  ];
}

/** The roll-out that brought what serves of a model, and that can be taken back. */
function broughtBy({ name, slots }, rollouts) {
  const current = slots.find((each) => each.slot === "current");
  const isIt = (model) => current && model.name === name && model.version === current.version;
  return toTakeBack(rollouts.find((each) => each.serves && each.models.some(isIt)));
}

/** What a question about going back has to know. */
function toTakeBack(rollout) {
  return rollout ? { id: rollout.id, models: rollout.models, configuration: rollout.configuration } : null;
}

/** What of a model's status says that versions have moved. */
function standing({ name, version, state, candidate, previous }) {
  return [name, version, state, candidate && candidate.version, previous && [previous.version, previous.state]];
}

/** A part of the page that is built anew only when what it shows has changed: nothing moves under a finger. */
function part(tag, build) {
  const element = h(tag, { hidden: true });
  let shown = "";
  return {
    element,
    show(...values) {
      const text = JSON.stringify(values);
      if (text === shown) return;
      shown = text;
      const children = build(...values).filter(Boolean);
      element.hidden = children.length === 0;
      element.replaceChildren(...children);
    },
  };
}

function tile(build) {
  const made = part("section", build);
  made.element.classList.add("tile");
  return made;
}
