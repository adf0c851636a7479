/**
 * Marks on words. The text of a paragraph stays one node: ranges in it are painted by the style sheet
 * (CSS custom highlights), so that hours of words stay light. A browser without them shows the words bare.
 */
import { Transcript } from "./transcript.js";

const UNSURE = 0.5; // a word that is less probable is shaded

/** @typedef {import("./view.js").Row} Row */

export class WordLights {
  /** Whether words of which the model was unsure are shaded. */
  unsure = false;
  /** @type {Map<Row, {unsure: StaticRange[], corrected: StaticRange[]}>} */
  #ranges = new Map();

  /** One word has this light, or none. @param {"playing" | "chosen"} name @param {Text | null} text @param {number} [from] @param {number} [to] */
  set(name, text, from = 0, to = 0) {
    const light = highlight(name);
    light?.clear();
    if (text) light?.add(rangeOf(text, from, to));
  }

  /** What a paragraph's words have changed to. @param {Row} row */
  update(row) {
    const { item, text } = row;
    if (item.kind !== "paragraph") return;
    const before = this.#ranges.get(row);
    const touched = item.runs.some(({ segment }) => segment.corrections.length > 0);
    if (!before && !touched && !this.unsure) return;
    this.#remove(row);
    const placed = Transcript.placed(item);
    const ranges = (/** @type {(word: import("./transcript.js").PlacedWord) => boolean} */ wanted) =>
      placed.filter(wanted).map(({ from, to }) => rangeOf(text, from, to));
    const unsure = ranges(({ p }) => this.unsure && p !== null && p < UNSURE);
    const corrected = ranges(({ heard }) => heard !== undefined);
    this.#ranges.set(row, { unsure, corrected });
    for (const range of unsure) highlight("unsure")?.add(range);
    for (const range of corrected) highlight("corrected")?.add(range);
  }

  clear() {
    this.#ranges.clear();
    for (const name of ["playing", "chosen", "unsure", "corrected"]) highlight(name)?.clear();
  }

  /** @param {Row} row */
  #remove(row) {
    const { unsure = [], corrected = [] } = this.#ranges.get(row) ?? {};
    for (const range of unsure) highlight("unsure")?.delete(range);
    for (const range of corrected) highlight("corrected")?.delete(range);
  }
}

/** @param {Text} text @param {number} from @param {number} to */
function rangeOf(text, from, to) {
  return new StaticRange({ startContainer: text, startOffset: from, endContainer: text, endOffset: to });
}

/** @param {string} name @returns {Highlight | null} */
function highlight(name) {
  if (globalThis.Highlight === undefined) return null;
  const light = CSS.highlights.get(name) ?? new Highlight();
  CSS.highlights.set(name, light);
  return light;
}
