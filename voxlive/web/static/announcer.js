/** What screen readers are given of words that come: a sentence at a time, or what there is after 3 s. */
import { make } from "./dom.js";

const KEPT = 3; // pieces
const PATIENCE_MS = 3000; // without the end of a sentence
const SENTENCE_END = /[.!?…。！？؟।]["'”’»)\]]*\s*$/u;

export class Announcer {
  #region;
  #unread = "";
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /** @param {HTMLElement} region with aria-live */
  constructor(region) {
    this.#region = region;
  }

  /** @param {string} text */
  add(text) {
    this.#unread += text;
    if (SENTENCE_END.test(this.#unread)) this.flush();
    else if (this.#timer === undefined && this.#unread !== "") {
      this.#timer = setTimeout(() => this.flush(), PATIENCE_MS);
    }
  }

  /** Nothing follows for now. */
  flush() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const text = this.#unread.trim();
    this.#unread = "";
    if (text === "") return;
    this.#region.append(make("p", "", text));
    while (this.#region.childElementCount > KEPT) this.#region.firstChild?.remove();
  }

  clear() {
    this.#unread = "";
    this.#region.replaceChildren();
  }
}
