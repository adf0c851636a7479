/**
 * What an overlay looks like, by the parameters of its address, and the words on it: for the overlay
 * itself and for the preview where its address is made.
 */

import { speakerKey, SpeakerNames } from "./speakers.js";

const MAX_CHARACTERS = 2000;

/** @param {string} value @param {number} low @param {number} high */
function within(value, low, high) {
  const number = Number(value);
  return value !== "" && number >= low && number <= high ? String(number) : null;
}

/**
 * A value that the style property takes, or null: bad parameters leave the default as it is.
 * @param {string} property
 * @param {string} value
 */
function valid(property, value) {
  return CSS.supports(property, value) && !/url\s*\(/i.test(value) ? value : null;
}

/** @param {string} value */
function colour(value) {
  return valid("color", /^[0-9a-f]{3,8}$/i.test(value) ? `#${value}` : value);
}

/** @param {string} value @param {string} unit */
function withUnit(value, unit) {
  return valid("width", /^[\d.]+$/.test(value) ? `${value}${unit}` : value);
}

/** @type {Record<string, string>} */
const PLACES = { top: "flex-start", middle: "center", bottom: "flex-end" };

/**
 * What each parameter sets, and how it is read.
 * @type {Record<string, [string, (value: string) => string | null]>}
 */
const STYLES = {
  size: ["--size", (value) => withUnit(value, "px")],
  color: ["--color", colour],
  background: ["--background", colour],
  page: ["--page", colour],
  lines: ["--lines", (value) => within(value, 1, 20)],
  position: ["--place", (value) => (Object.hasOwn(PLACES, value) ? PLACES[value] : null)],
  align: ["--align", (value) => valid("text-align", value)],
  width: ["--width", (value) => withUnit(value, "%")],
  font: ["--font", (value) => valid("font-family", value)],
  weight: ["--weight", (value) => valid("font-weight", value)],
  case: ["--case", (value) => (value === "upper" ? "uppercase" : null)],
  shadow: ["--shadow", (value) => valid("text-shadow", value === "0" ? "none" : value)],
};

/** @param {HTMLElement} root the overlay @param {URLSearchParams} wishes */
export function dressOverlay(root, wishes) {
  for (const [name, [variable, read]] of Object.entries(STYLES)) {
    const given = wishes.get(name);
    const value = given === null ? null : read(given);
    if (value === null) root.style.removeProperty(variable);
    else root.style.setProperty(variable, value);
  }
  const lang = wishes.get("lang") ?? "";
  root.lang = /^[a-z]{2,3}(-[a-z0-9]{2,8})*$/i.test(lang) ? lang : "";
}

/**
 * Words of one speaker in a segment with nothing between them. `gone`: they have faded; what is said next
 * stands alone.
 * @typedef {import("./speakers.js").Part} Part
 * @typedef {{segment: number, source: string, speaker: Part["speaker"], text: string, gone: boolean}} Run
 */

/** The last words, which go when nothing has come for a while. */
export class OverlayText {
  #text;
  /** @type {Run[]} */
  #runs = [];
  #draft = "";
  #withDrafts = true;
  #withNames = false;
  #names = new SpeakerNames();
  #fadeMs = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #fading;

  /** @param {HTMLElement} text @param {URLSearchParams} wishes */
  constructor(text, wishes) {
    this.#text = text;
    this.wish(wishes);
  }

  /** @param {URLSearchParams} wishes */
  wish(wishes) {
    this.#withDrafts = wishes.get("drafts") !== "0";
    this.#withNames = wishes.get("names") === "1";
    this.#fadeMs = Number(within(wishes.get("fade") ?? "", 0, 3600) ?? 10) * 1000;
    this.#show();
  }

  get empty() {
    return this.#text.childElementCount === 0;
  }

  /** An event of captions. @param {string} kind @param {any} data */
  take(kind, data) {
    if (kind === "snapshot") this.#restore(data);
    else if (kind === "words") {
      if (this.#text.classList.contains("gone")) for (const run of this.#runs) run.gone = true;
      this.#add(data.segment, data.text, data.source ?? "");
      this.#draft = "";
    } else if (kind === "draft") {
      const { text, source = "" } = data;
      if (text === "" && source !== this.#speaking) return;
      this.#draft = text;
    } else if (kind === "corrected") {
      respread(this.#runs.filter(({ segment }) => segment === data.segment), data.text);
      return this.#write();
    } else if (kind === "speakers") {
      this.#label(data.segment, data.parts ?? []);
      return this.#write();
    } else if (kind === "named") {
      this.#names.set(data.source ?? "", data.speaker, data.name);
      return this.#write();
    } else return;
    this.#show();
  }

  /** @param {any} snapshot */
  #restore({ segments, open = [], draft, speakers = [] }) {
    this.#runs = [];
    this.#names.restore(speakers);
    const closed = segments.slice(-3).map((/** @type {any} */ one) => ({ ...one, segment: one.id }));
    for (const { segment, text, source = "", parts = [] } of [...closed, ...open]) {
      this.#add(segment, text, source);
      this.#label(segment, parts);
    }
    this.#draft = draft;
  }

  /** Whose the words of a segment are. @param {number} segment @param {Part[]} parts */
  #label(segment, parts) {
    const first = this.#runs.findIndex((run) => run.segment === segment);
    const runs = this.#runs.filter((run) => run.segment === segment);
    const last = parts.at(-1);
    if (first < 0 || last === undefined) return;
    if (this.#runs[first + runs.length - 1]?.segment !== segment) {
      // Another source has spoken in between: each run stays in its place.
      for (const run of runs) run.speaker = last.speaker;
      return;
    }
    const whole = parts.reduce((sum, { text }) => sum + text.length, 0);
    const shown = runs.reduce((sum, { text }) => sum + text.length, 0);
    const gone = runs.reduce((sum, run) => sum + (run.gone ? run.text.length : 0), whole - shown);
    const { source } = this.#runs[first];
    let at = 0;
    const labelled = parts.flatMap(({ speaker, text }) => {
      const split = Math.min(Math.max(0, gone - at), text.length);
      at += text.length;
      const run = { segment, source, speaker };
      return [
        { ...run, text: text.slice(0, split), gone: true },
        { ...run, text: text.slice(split), gone: false },
      ].filter((one) => one.text !== "");
    });
    this.#runs.splice(first, runs.length, ...labelled);
  }

  /** @param {number} segment @param {string} more @param {string} source */
  #add(segment, more, source) {
    const last = this.#runs.at(-1);
    const speaker = this.#runs.findLast((run) => run.source === source)?.speaker ?? null;
    if (last && last.segment === segment && !last.gone) last.text += more;
    else this.#runs.push({ segment, source, speaker, text: more, gone: false });
    let length = this.#runs.reduce((sum, { text }) => sum + text.length, 0);
    while (length - this.#runs[0].text.length > MAX_CHARACTERS) {
      length -= /** @type {Run} */ (this.#runs.shift()).text.length;
    }
  }

  /** The source that spoke last. */
  get #speaking() {
    return this.#runs.at(-1)?.source ?? "";
  }

  /** Where another one goes on, a dash stands, as in subtitles, and the name if that is wanted. */
  get #committed() {
    let text = "";
    /** @type {string | null} */
    let speaking = this.#runs[0]?.source === "" ? speakerKey("", this.#runs[0].speaker) : "";
    let told = false;
    for (const run of this.#runs) {
      const key = speakerKey(run.source, run.speaker);
      const turn = key !== speaking;
      speaking = key;
      if (run.gone) continue;
      const name = this.#withNames && (turn || !told) ? this.#names.of(run.source, run.speaker) : "";
      const said = name || turn ? run.text.trimStart() : run.text;
      text += `${turn ? " \u2013 " : ""}${name && `${name}: `}${said}`;
      told = true;
    }
    return text.slice(-MAX_CHARACTERS).trimStart();
  }

  #write() {
    const committed = this.#committed;
    const said = document.createElement("b");
    said.textContent = committed;
    if (this.#withDrafts && this.#draft !== "") {
      const guess = document.createElement("i");
      guess.textContent = committed === "" ? this.#draft.trimStart() : this.#draft;
      said.append(guess);
    }
    const line = document.createElement("span");
    line.dir = "auto";
    line.append(said);
    this.#text.replaceChildren(...(said.textContent === "" ? [] : [line]));
  }

  #show() {
    this.#write();
    this.#text.classList.remove("gone");
    clearTimeout(this.#fading);
    if (this.#fadeMs > 0) this.#fading = setTimeout(() => this.#text.classList.add("gone"), this.#fadeMs);
  }
}

/**
 * A segment has another text: runs at its ends that have not changed stay, the first of the others has
 * what is left. @param {Run[]} runs of it, in order @param {string} text
 */
function respread(runs, text) {
  let rest = text;
  let from = 0;
  let to = runs.length;
  while (from < to && rest.startsWith(runs[from].text)) rest = rest.slice(runs[from++].text.length);
  while (from < to && rest.endsWith(runs[to - 1].text)) rest = rest.slice(0, rest.length - runs[--to].text.length);
  for (const run of runs.slice(from, to)) {
    run.text = rest;
    rest = "";
  }
  if (rest === "" || runs.length === 0) return;
  // Words were added before, between or behind runs that have not changed.
  if (from > 0) runs[from - 1].text += rest;
  else runs[0].text = rest + runs[0].text;
}
