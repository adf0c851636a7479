/** What screen readers are given of words that come, in steady pieces. */
import { make, SENTENCE_END } from "./dom.js";

const KEPT = 3; // pieces
const PATIENCE_MS = 3000; // without the end of a sentence, a piece is read out after this time
const LONGEST = 500; // characters, and no longer one is waited for, where sentences are wanted whole

export class Announcer {
  #region;
  /** A sentence at a time, or what there is after 3 s; whole sentences alone; or nothing. @type {import("./settings.js").Settings["announce"]} */
  mode = "steady";
  #unread = ""; // words that readers have not had
  #speaking = ""; // their source
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /** @param {HTMLElement} region with aria-live */
  constructor(region) {
    this.#region = region;
  }

  /** @param {string} text @param {string} [source] whose words they are, where there are several */
  add(text, source = "") {
    if (this.mode === "off") return;
    if (source !== this.#speaking) {
      this.flush();
      this.#speaking = source;
      this.#unread = source === "" ? "" : `${source}:`;
    }
    this.#unread += text;
    if (SENTENCE_END.test(this.#unread) || this.#unread.length > LONGEST) this.flush();
    else if (this.mode === "steady" && this.#timer === undefined && this.#unread !== "") {
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
    this.#unread = this.#speaking = "";
    this.#region.replaceChildren();
  }
}
