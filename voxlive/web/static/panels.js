/** What lies over or beside the captions: the notice and the dialogs. */
import { byId, make, rich } from "./dom.js";
import { engineName, isEnglishOnly, remark } from "./engine.js";
import { LANGUAGES } from "./language.js";
import { save } from "./settings.js";
import { languageName, number, say } from "./words.js";

/**
 * @typedef {import("./settings.js").Settings} Settings
 * @typedef {import("./engine.js").Health} Health
 */

/** Says what went wrong and what to do, until it is dismissed or replaced. */
export class Notice {
  #box = byId("notice");

  constructor() {
    byId("notice-close").addEventListener("click", () => this.hide());
  }

  /** @param {import("./messages.js").Advice} advice */
  show({ title, steps }) {
    byId("notice-title").textContent = title;
    byId("notice-steps").replaceChildren(...steps.map((step) => make("li", "", ...rich(step))));
    this.#show(true);
  }

  hide() {
    this.#show(false);
  }

  /** @param {boolean} shown */
  #show(shown) {
    this.#box.hidden = !shown;
    document.body.toggleAttribute("data-noticed", shown);
  }
}

/** Asks before something is lost. @param {string} title @param {string} text @param {string} yes */
export async function confirmed(title, text, yes) {
  const dialog = byId("confirm");
  byId("confirm-title").textContent = title;
  byId("confirm-text").textContent = text;
  byId("confirm-yes").textContent = yes;
  dialog.returnValue = "no";
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  return dialog.returnValue === "yes";
}

/** Lists of the settings whose options are in the page. */
const LISTED = {
  size: true,
  theme: true,
  pageLanguage: true,
  font: true,
  measure: true,
  announce: true,
};

/**
 * The settings dialog and the row above the start: every change counts and is kept at once.
 * @param {Settings} settings
 * @param {(name: string) => void} changed
 * @param {() => number} usualPause of the model, in ms
 */
export function setUpSettings(settings, changed, usualPause) {
  const dialog = byId("settings");
  const forms = [byId("choices"), dialog.querySelector("form")];
  const values = /** @type {Record<string, any>} */ (settings);
  for (const [key, { name, tag }] of Object.entries(LANGUAGES)) {
    const option = new Option(name, key);
    option.lang = tag;
    byId("page-language").add(option);
  }
  const show = () => {
    for (const field of forms.flatMap((form) => [...form.elements])) {
      if (field.type === "checkbox") field.checked = values[field.name];
      else if (field.name && field.tagName !== "SELECT") field.value = values[field.name];
      else if (field.name in LISTED) field.value = values[field.name];
    }
    const pauseMs = settings.pauseMs || usualPause();
    byId("pause").value = String(pauseMs);
    byId("pause-text").textContent = say("seconds", { seconds: number(pauseMs / 1000, 1) });
  };
  const take = (/** @type {any} */ { target }) => {
    if (!target.checkValidity()) return;
    const value =
      target.type === "checkbox"
        ? target.checked
        : target.type === "range"
          ? target.valueAsNumber
          : target.value;
    values[target.name] = value;
    save(settings);
    show();
    changed(target.name);
  };
  for (const form of forms) {
    form.addEventListener("input", take);
    form.addEventListener("submit", (/** @type {Event} */ event) => {
      if (form === forms[0]) event.preventDefault();
    });
  }
  show();
  byId("open-settings").addEventListener("click", () => {
    show();
    dialog.showModal();
  });
}

/**
 * Whether, where and how long the server keeps transcripts, and the choice for one's own.
 * @param {Health | null} health
 * @param {Settings} settings
 */
export function showStore(health, { store }) {
  const kept = health?.store ?? null;
  byId("store-row").hidden = kept === null;
  byId("keeping").hidden = kept === null;
  byId("profiles-row").hidden = !kept?.profiles;
  if (kept === null) return;
  const days = kept.keep_days;
  const time = days === null ? say("keeping.always") : say("keeping.days", { count: days });
  const audio = kept.audio?.of === "all";
  byId("store-place").replaceChildren(...rich(say("settings.store-place", { place: kept.location, time })));
  byId("keep-audio").hidden = kept.audio?.of !== "asked";
  const own = audio ? say("keeping.audio", { time }) : say("keeping.text", { time });
  const none = say(audio ? "keeping.audio-not" : "keeping.text-not");
  byId("keeping").textContent = store ? own : none;
}

/** Some of the languages that a better model would know. */
const OTHERS = ["ar", "de", "es", "fr", "hi", "it", "ja", "ko", "nl", "pl", "pt", "ru", "tr", "uk", "zh"];

/** The choice of the model, where the server has several. @param {Health | null} health @param {string} chosen */
export function offerModels(health, chosen) {
  const models = health?.models ?? [];
  byId("model-row").hidden = models.length < 2;
  const options = models.map(({ name, languages = [] }, at) => {
    const option = make("option", "", goodFor(name, languages));
    option.setAttribute("value", at === 0 ? "" : name);
    return option;
  });
  byId("model").replaceChildren(...options);
  byId("model").value = models.some(({ name }, at) => at > 0 && name === chosen) ? chosen : "";
}

/** @param {string} name of a model @param {string[]} languages that it knows */
function goodFor(name, languages) {
  if (languages.length === 1) return say("choices.model-language", { name, language: languageName(languages[0]) });
  return languages.length > 1 ? say("choices.model-languages", { name, count: languages.length }) : name;
}

/** Words for each rule of commitment. @type {Record<string, Parameters<typeof say>[0]>} */
const RULES = { fast: "speed.fast", steady: "speed.steady", pause: "speed.careful" };

/**
 * How soon words are final: rules, or delays of the model. Nothing where there is no choice.
 * @param {Health | null} health @param {string} chosen
 */
export function offerSpeeds(health, chosen) {
  const rules = health?.commit_rules ?? [];
  const delays = health?.delays_ms ?? [];
  const known = rules.filter((rule) => rule in RULES).map((rule) => [rule, say(RULES[rule])]);
  const best = health?.commit ?? "";
  const options = known.length > 0 ? known : delaySpeeds(delays, health?.delay_ms ?? 0);
  const select = byId("speed");
  byId("speed-choice").hidden = options.length < 2;
  select.replaceChildren(
    ...options.map(([value, text]) => new Option(text, value === best ? "" : value)),
  );
  const values = options.map(([value]) => value);
  select.value = values.includes(chosen) && chosen !== best ? chosen : "";
}

/** The fastest, the model's own and the most careful one. @param {number[]} delays @param {number} own */
function delaySpeeds(delays, own) {
  if (delays.length < 2) return [];
  const first = delays[0];
  const last = delays[delays.length - 1];
  /** @type {[number, Parameters<typeof say>[0]][]} */
  const named = [
    [first, "speed.delay-fast"],
    [own, "speed.delay-steady"],
    [last, "speed.delay-careful"],
  ];
  return named
    .filter(([ms], at) => named.findIndex(([other]) => other === ms) === at)
    .map(([ms, key]) => [ms === own ? "" : String(ms), say(key, { seconds: number(ms / 1000, 1) })]);
}

/** The choice of the language that is spoken: what the running model knows, and why not another. */
export class LanguageChoice {
  #select = byId("language");
  #advice = byId("language-advice");
  #settings;
  /** @type {Health | null} */
  #health = null;

  /** @param {Settings} settings */
  constructor(settings) {
    this.#settings = settings;
    this.#select.addEventListener("change", () => this.#advise());
  }

  /** @param {Health | null} health */
  offer(health) {
    if (!health?.languages) return;
    this.#health = health;
    const english = isEnglishOnly(health);
    const known = health.takes_language || english ? health.languages : [];
    const tags = [...new Set(english ? [...known, ...OTHERS] : known)];
    const named = tags.map((tag) => /** @type {const} */ ([languageName(tag), tag]));
    named.sort(([one], [other]) => one.localeCompare(other));
    const first = make("option", "", say("choices.any-language"));
    first.setAttribute("value", "");
    const options = named.map(([name, tag]) => {
      const option = make("option", "", name);
      option.setAttribute("value", tag);
      return option;
    });
    this.#select.replaceChildren(first, ...options);
    this.#select.value = tags.includes(this.#settings.language) ? this.#settings.language : "";
    byId("translate").hidden = !health.translates;
    this.#advise();
  }

  #advise() {
    const health = this.#health;
    const chosen = this.#select.value;
    const unknown = health !== null && chosen !== "" && !health.languages.includes(chosen);
    this.#advice.hidden = !unknown;
    if (unknown) this.#advice.replaceChildren(...rich(remark(health)));
  }
}

/** The chip in the bar, the remark on the empty page and the dialog behind the chip. */
export class EngineCard {
  #chip = byId("engine");

  constructor() {
    this.#chip.addEventListener("click", () => byId("about").showModal());
  }

  /** @param {Health | null} health @param {string} language */
  show(health, language) {
    const loading = health?.status === "ok" && !health.ready;
    byId("engine-name").textContent =
      health === null
        ? say("server.unreached")
        : loading
          ? say("server.loading", { model: health.model })
          : health.key_needed
            ? say("server.locked")
            : engineName(health);
    this.#chip.dataset.health = loading ? "loading" : (health?.status ?? "failing");
    const note = remark(health);
    const englishOnly = health !== null && isEnglishOnly(health);
    byId("engine-limits").hidden = !englishOnly;
    byId("note").hidden = note === "";
    byId("note-title").textContent = say(englishOnly ? "note.english" : "note.heading");
    byId("note-text").replaceChildren(...rich(note));
    byId("about-note").replaceChildren(...rich(note));
    byId("about-facts").replaceChildren(...(health === null || health.key_needed ? [] : facts(health, language)));
  }
}

/** @param {Health} health @param {string} language */
function facts(health, language) {
  const { in_use: used, capacity: all } = health;
  const why = health.error ?? say("about.cannot");
  /** @type {[import("./words.js").Key, string][]} */
  const rows = [
    ["about.engine", health.engine],
    ["choices.model", health.model],
    ["about.device", health.device],
    ["choices.language", language || say("about.language-later")],
    ["about.state", health.status === "ok" ? say("about.working") : say("about.failing", { why })],
    ["about.places", say("about.places-used", { used, all })],
    ["about.version", `voxlive ${health.version}`],
  ];
  return rows.flatMap(([term, text]) => [make("dt", "", say(term)), make("dd", "", text)]);
}
