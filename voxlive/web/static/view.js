/**
 * The transcript on screen.
 *
 * A paragraph is three elements and one text node, however long it is, and blocks of those that are out
 * of sight are not rendered, so hours of captions stay light and whole.
 */
import { Announcer } from "./announcer.js";
import { Blocks } from "./blocks.js";
import { clock, hide, make } from "./dom.js";
import { WordLights } from "./lights.js";
import { colourOf } from "./speakers.js";
import { say } from "./words.js";

const NEAR_END_PX = 60;
const AT_ONCE = 200; // rows of a transcript that is opened; the older ones come above them after it is painted
const MORE = 400; // of those at a time

/**
 * @typedef {import("./transcript.js").Transcript} Transcript
 * @typedef {import("./transcript.js").Paragraph | import("./transcript.js").Mark} Item
 * @typedef {{item: Item, node: HTMLElement, text: Text, shown: number, version: number}} Row `shown`: how
 *   many characters there are of its text, which its node says more slowly
 */

/** What may still change of a source: behind its paragraph, or in a row of its own. */
class DraftRow {
  words = make("span", "draft");
  space = document.createTextNode(""); // before them, so that their underline begins at a word
  #time = document.createElement("time");
  row;

  /** @param {string} source */
  constructor(source) {
    this.row = paragraphRow(this.#time, source, "");
  }

  /**
   * @param {import("./transcript.js").Draft} draft
   * @param {HTMLElement | undefined} last row of the source
   * @returns {boolean} whether its own row is to be shown
   */
  show({ text, start, apart }, last) {
    const own = apart || last === undefined;
    this.words.textContent = text.trimStart();
    this.space.data = own ? "" : text.slice(0, text.length - text.trimStart().length);
    if (own) this.#time.textContent = clock(start);
    (own ? this.row : last).lastElementChild?.append(this.space, this.words);
    return own;
  }

  remove() {
    this.words.remove();
    this.space.remove();
  }
}

export class TranscriptView {
  #scroller;
  #blocks;
  #jump;
  #announcer;
  /** @type {Row[]} one per item of the transcript, from the first that has one */
  #rows = [];
  #above = 0; // items before that
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #filling;
  /** @type {WeakMap<Node, Row>} by their elements */
  #byNode = new WeakMap();
  lights = new WordLights();
  /** @type {Map<string, DraftRow>} by source */
  #drafts = new Map();
  #following = true;
  #lastTop = 0;
  #scheduled = false;
  /** @type {Transcript | null} */
  #transcript = null;

  /**
   * @param {HTMLElement} scroller
   * @param {HTMLElement} list
   * @param {HTMLElement} jump the button that leads back to the newest words
   * @param {HTMLElement} announcer the aria-live region
   */
  constructor(scroller, list, jump, announcer) {
    this.#scroller = scroller;
    this.#blocks = new Blocks(list);
    this.#jump = jump;
    this.#announcer = new Announcer(announcer);
    scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    jump.addEventListener("click", () => this.follow());
    new ResizeObserver(() => this.#keepUp()).observe(list);
    new ResizeObserver(() => this.#keepUp()).observe(scroller);
  }

  /** The rows of paragraphs, in order. */
  get paragraphs() {
    return this.#rows.filter(({ item }) => item.kind === "paragraph");
  }

  /** The paragraph that a part of the page belongs to. @param {Node} node @returns {Row | null} */
  rowAt(node) {
    const element = node instanceof Element ? node : node.parentElement;
    const row = this.#byNode.get(/** @type {Node} */ (element?.closest(".paragraph")));
    return row ?? null;
  }

  /** Brings a row into sight, where it stays. @param {Row} row */
  reveal({ node }) {
    const { top, bottom } = node.getBoundingClientRect();
    const box = this.#scroller.getBoundingClientRect();
    if (top >= box.top && bottom <= box.bottom) return;
    this.#following = false;
    node.scrollIntoView({ block: "nearest" });
  }

  /** Paints the lights of all words anew. */
  relight() {
    for (const row of this.#rows) this.lights.update(row);
  }

  /** Shows it as it is now, at the next frame. @param {Transcript} transcript */
  show(transcript) {
    this.#transcript = transcript;
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame(() => {
      this.#scheduled = false;
      this.#render(/** @type {Transcript} */ (this.#transcript));
    });
  }

  /** Words for screen readers. @param {string} text @param {string} [source] whose they are, where there are several */
  announce(text, source) {
    this.#announcer.add(text, source);
  }

  /** Nothing follows for now: screen readers get the rest. */
  readOut() {
    this.#announcer.flush();
  }

  /** What they get by themselves. @param {import("./settings.js").Settings["announce"]} mode */
  set announcing(mode) {
    this.#announcer.mode = mode;
  }

  /** Scrolls to the newest words and stays with them. */
  follow() {
    this.#following = true;
    this.#keepUp();
  }

  clear() {
    clearTimeout(this.#filling);
    this.#rows = [];
    this.#drafts.clear();
    this.lights.clear();
    this.#blocks.clear();
    this.#announcer.clear();
    this.follow();
  }

  /** @param {Transcript} transcript */
  #render({ items, drafts, ahead }) {
    if (this.#rows.length === 0) this.#above = Math.max(0, items.length - AT_ONCE);
    for (let at = 0; at + this.#above < items.length; at++) {
      const item = items[at + this.#above];
      let row = this.#rows[at];
      if (row?.item !== item) {
        const next = row?.node ?? null;
        row = this.#rowOf(item);
        this.#blocks.insert(row.node, next);
        this.#rows.splice(at, 0, row);
      }
      this.#write(row);
    }
    for (const [source, shown] of this.#drafts) {
      if (drafts.has(source)) continue;
      shown.remove();
      this.#blocks.remove(shown.row);
      this.#drafts.delete(source);
    }
    const next = this.#rows[items.length - this.#above - ahead]?.node ?? null;
    for (const [source, draft] of drafts) this.#place(source, draft, next);
    this.#keepUp();
    if (this.#above > 0) this.#fillLater();
  }

  #fillLater() {
    clearTimeout(this.#filling);
    this.#filling = setTimeout(() => this.#fill());
  }

  /** Rows for items above the others. */
  #fill() {
    const { items } = /** @type {Transcript} */ (this.#transcript);
    const from = Math.max(0, this.#above - MORE);
    const added = items.slice(from, this.#above).map((item) => {
      const row = this.#rowOf(item);
      this.#write(row);
      return row;
    });
    this.#blocks.prepend(added.map(({ node }) => node));
    this.#rows.unshift(...added);
    this.#above = from;
    this.#keepUp();
    if (from > 0) this.#fillLater();
  }

  /** Has a row say what its item does by now. @param {Row} row */
  #write(row) {
    const { item, text } = row;
    const version = item.kind === "mark" ? 0 : item.version;
    if (row.version === version && row.shown === item.text.length) return;
    if (row.version !== version && item.kind === "paragraph") showWho(row.node, item);
    if (row.version !== version) text.data = item.text;
    else text.appendData(item.text.slice(row.shown));
    row.shown = item.text.length;
    row.version = version;
    this.lights.update(row);
  }

  /** @param {Item} item @returns {Row} */
  #rowOf(item) {
    const text = document.createTextNode("");
    const isMark = item.kind === "mark";
    const at = make("time", "", clock(isMark ? item.at : item.start));
    const node = isMark ? markRow(at, text, item.own) : paragraphRow(at, item.source, text);
    // A version that it has not: its text is still to come.
    const row = { item, node, text, shown: 0, version: -1 };
    this.#byNode.set(node, row);
    return row;
  }

  /**
   * @param {string} source
   * @param {import("./transcript.js").Draft} draft
   * @param {HTMLElement | null} next row behind it
   */
  #place(source, draft, next) {
    const shown = this.#drafts.get(source) ?? new DraftRow(source);
    this.#drafts.set(source, shown);
    const last = this.#rows.findLast(({ item }) => item.kind === "paragraph" && item.source === source);
    if (shown.show(draft, last?.node)) this.#blocks.insert(shown.row, next);
    else this.#blocks.remove(shown.row);
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    if (scrollHeight - scrollTop - clientHeight < NEAR_END_PX) this.#following = true;
    else if (scrollTop < this.#lastTop) this.#following = false;
    this.#lastTop = scrollTop;
    hide(this.#jump, this.#following);
  }

  #keepUp() {
    // The empty page begins at its top, however small the window is.
    if (this.#following && !this.#blocks.empty) this.#scroller.scrollTop = this.#scroller.scrollHeight;
    hide(this.#jump, this.#following);
  }
}

/** @param {HTMLElement} at @param {string} source @param {Text | string} text */
function paragraphRow(at, source, text) {
  const words = make("p", "", text);
  words.dir = "auto";
  if (source === "") return make("div", "paragraph", at, words);
  return make("div", "paragraph sourced", at, make("b", "who", source), words);
}

/**
 * Who speaks, before a paragraph's words: a speaker can be given a name there.
 * @param {HTMLElement} node @param {import("./transcript.js").Paragraph} item
 */
function showWho(node, { who, speaker }) {
  let shown = node.querySelector(".who");
  if (who === "") return;
  if (shown === null || (speaker !== null && shown.tagName === "B")) {
    const made = speaker === null ? make("b", "who") : make("button", "who");
    if (shown) shown.replaceWith(made);
    else node.querySelector("time")?.after(made);
    node.classList.add("sourced");
    shown = made;
  }
  shown.textContent = who;
  if (!(shown instanceof HTMLButtonElement)) return;
  shown.type = "button";
  shown.dataset.colour = colourOf(speaker);
  shown.title = say("speaker.rename", { name: who });
}

/** @param {HTMLElement} at @param {Text} text @param {boolean} [own] */
function markRow(at, text, own = false) {
  const words = make("p", "", text);
  words.dir = "auto";
  return make("div", own ? "mark own" : "mark", at, words);
}
