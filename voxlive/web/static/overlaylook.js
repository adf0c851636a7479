/**
 * What an overlay looks like, by the parameters of its address, and the words on it: for the overlay
 * itself and for the preview where its address is made.
 */

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

/** The last words, which go when nothing has come for a while. */
export class OverlayText {
  #text;
  #committed = "";
  #draft = "";
  #withDrafts = true;
  #fadeMs = 0;
  /** Where another source goes on, a dash stands, as in subtitles. */
  #speaking = "";
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
      const more = this.#turned(data.text, data.source ?? "");
      const gone = this.#text.classList.contains("gone");
      this.#committed = (gone ? more : this.#committed + more).slice(-MAX_CHARACTERS);
      this.#draft = "";
    } else if (kind === "draft") {
      const { text, source = "" } = data;
      if (text === "" && source !== this.#speaking) return;
      this.#draft = text;
    } else return;
    this.#show();
  }

  /** @param {any} snapshot */
  #restore({ segments, open = [], draft }) {
    this.#speaking = "";
    this.#committed = "";
    for (const { text, source = "" } of [...segments.slice(-3), ...open]) {
      this.#committed += this.#turned(text, source);
    }
    this.#draft = draft;
  }

  /** @param {string} more @param {string} source */
  #turned(more, source) {
    if (source === this.#speaking) return more;
    this.#speaking = source;
    return ` \u2013 ${more.trimStart()}`;
  }

  #show() {
    const said = document.createElement("b");
    said.textContent = this.#committed.trimStart();
    if (this.#withDrafts && this.#draft !== "") {
      const guess = document.createElement("i");
      guess.textContent = this.#committed === "" ? this.#draft.trimStart() : this.#draft;
      said.append(guess);
    }
    const line = document.createElement("span");
    line.dir = "auto";
    line.append(said);
    this.#text.replaceChildren(...(said.textContent === "" ? [] : [line]));
    this.#text.classList.remove("gone");
    clearTimeout(this.#fading);
    if (this.#fadeMs > 0) this.#fading = setTimeout(() => this.#text.classList.add("gone"), this.#fadeMs);
  }
}
