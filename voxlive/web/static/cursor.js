/**
 * Which word of the transcript is meant: by the pointer, or by the keyboard, which walks from word to word.
 * The captions take the keys: Enter begins at the newest words that are in sight, Escape leaves.
 */
import { Transcript } from "./transcript.js";
import { say } from "./words.js";

const TWICE_MS = 250; // a second click within this time is a double click

/**
 * @typedef {import("./view.js").Row} Row
 * @typedef {import("./transcript.js").PlacedWord} PlacedWord
 * @typedef {{row: Row, words: PlacedWord[], index: number}} Place a word of a paragraph
 * @typedef {object} CursorListener
 * @property {(word: PlacedWord) => void} hear from this word on
 * @property {(place: Place) => void} correct
 * @property {(place: Place | null) => void} chosen the keyboard is at this word; null: at none
 * @property {(place: Place | null) => void} pointed the pointer is over this word
 */

export class WordCursor {
  #captions;
  #view;
  #listener;
  /** @type {Place | null} where the keyboard is */
  #at = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #clicked;

  /** @param {HTMLElement} captions @param {import("./view.js").TranscriptView} view @param {CursorListener} listener */
  constructor(captions, view, listener) {
    this.#captions = captions;
    this.#view = view;
    this.#listener = listener;
    captions.addEventListener("keydown", (event) => this.#typed(event));
    captions.addEventListener("blur", () => this.leave());
    captions.addEventListener("click", (event) => this.#click(event));
    captions.addEventListener("dblclick", (event) => this.#twice(event));
    captions.addEventListener("pointermove", (event) => listener.pointed(this.#under(event)));
    for (const away of ["pointerleave", "wheel"]) {
      captions.addEventListener(away, () => listener.pointed(null), { passive: true });
    }
  }

  /** The keyboard is at no word any more. */
  leave() {
    if (this.#at === null) return;
    this.#at = null;
    this.#listener.chosen(null);
  }

  /** @param {MouseEvent} event */
  #click(event) {
    clearTimeout(this.#clicked);
    const place = event.detail === 1 && event.button === 0 ? this.#under(event) : null;
    if (place === null || !document.getSelection()?.isCollapsed) return;
    this.#clicked = setTimeout(() => this.#listener.hear(place.words[place.index]), TWICE_MS);
  }

  /** @param {MouseEvent} event */
  #twice(event) {
    clearTimeout(this.#clicked);
    const place = this.#under(event);
    if (place === null) return;
    event.preventDefault();
    document.getSelection()?.removeAllRanges();
    this.#listener.correct(place);
  }

  /** The word under the pointer. @param {MouseEvent} event @returns {Place | null} */
  #under({ clientX, clientY, target }) {
    const row = this.#view.rowAt(/** @type {Node} */ (target));
    const caret = row && caretAt(clientX, clientY);
    if (!row || caret?.node !== row.text) return null;
    const words = wordsOf(row);
    const index = words.findIndex(({ from, to }) => from <= caret.offset && caret.offset <= to);
    if (index < 0) return null;
    const boxes = [...boxesOf(row, words[index])];
    const inside = boxes.some(
      (box) => box.left <= clientX && clientX <= box.right && box.top <= clientY && clientY <= box.bottom,
    );
    return inside ? { row, words, index } : null;
  }

  /** @param {KeyboardEvent} event */
  #typed(event) {
    const { key, target, ctrlKey, altKey, metaKey } = event;
    if (target !== this.#captions || ctrlKey || altKey || metaKey) return;
    if (this.#at === null) {
      if (key !== "Enter") return;
      event.preventDefault();
      return this.#go(this.#inSight());
    }
    const { row, index, words } = this.#at;
    /** @type {Record<string, () => void>} */
    const actions = {
      ArrowRight: () => this.#step(1),
      ArrowLeft: () => this.#step(-1),
      ArrowDown: () => this.#go(this.#beside(row, 1, 0)),
      ArrowUp: () => this.#go(this.#beside(row, -1, 0)),
      Home: () => this.#go({ row, words, index: 0 }),
      End: () => this.#go({ row, words, index: words.length - 1 }),
      " ": () => this.#listener.hear(words[index]),
      Enter: () => this.#listener.correct({ row, words, index }),
      Escape: () => this.leave(),
    };
    if (!Object.hasOwn(actions, key)) return;
    event.preventDefault();
    event.stopPropagation();
    actions[key]();
  }

  /** @param {number} by */
  #step(by) {
    if (this.#at === null) return;
    const { row, index } = this.#at;
    const words = wordsOf(row); // it may have grown
    const next = index + by;
    if (words[next]) this.#go({ row, words, index: next });
    else this.#go(this.#beside(row, by, by > 0 ? 0 : Infinity));
  }

  /** @param {Place | null} place */
  #go(place) {
    if (place === null) return;
    this.#at = place;
    this.#listener.chosen(place);
  }

  /** @param {Row} row @param {number} by @param {number} index @returns {Place | null} */
  #beside(row, by, index) {
    const rows = this.#view.paragraphs;
    for (let at = rows.indexOf(row) + by; at >= 0 && at < rows.length; at += by) {
      const words = wordsOf(rows[at]);
      if (words.length > 0) return { row: rows[at], words, index: Math.min(index, words.length - 1) };
    }
    return null;
  }

  /** The newest words in sight. @returns {Place | null} */
  #inSight() {
    const { bottom } = this.#captions.getBoundingClientRect();
    const rows = this.#view.paragraphs;
    const row = rows.findLast(({ node }) => node.getBoundingClientRect().top < bottom);
    const words = row ? wordsOf(row) : [];
    return row && words.length > 0 ? { row, words, index: words.length - 1 } : null;
  }
}

/** Where a word stands on the screen. @param {Row} row @param {PlacedWord} word */
export function boxesOf({ text }, { from, to }) {
  const range = document.createRange();
  range.setStart(text, Math.min(from, text.length));
  range.setEnd(text, Math.min(to, text.length));
  return range.getClientRects();
}

/** A word as it is told to those who hear the page. @param {Place} place */
export function spokenAs({ words, index }) {
  const { text, heard } = words[index];
  return heard === undefined ? text.trim() : say("cursor.corrected", { text: text.trim(), heard });
}

/** @param {Row} row */
function wordsOf({ item }) {
  return item.kind === "paragraph" ? Transcript.placed(item) : [];
}

/** @param {number} x @param {number} y @returns {{node: Node, offset: number} | null} */
function caretAt(x, y) {
  if (document.caretPositionFromPoint) {
    const found = document.caretPositionFromPoint(x, y);
    return found && { node: found.offsetNode, offset: found.offset };
  }
  const range = document.caretRangeFromPoint?.(x, y);
  return range ? { node: range.startContainer, offset: range.startOffset } : null;
}
