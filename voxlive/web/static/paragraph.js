/** A paragraph of the transcript: its text, and where it ends. */
import { SENTENCE_END } from "./dom.js";

const PARAGRAPH_CHARS = 300; // a longer paragraph ends with its sentence or segment
const LONG_CHARS = 600; // a longer one ends with its clause
const LONGEST_CHARS = 900; // a longer one ends with its word
const CLAUSE_END = /[,;:—、，；：،]["'”’»)\]]*\s*$/u;

/** @typedef {import("./transcript.js").Paragraph} Paragraph */

/** @param {Paragraph} paragraph */
export function textIn({ runs }) {
  const words = runs.flatMap(({ segment, first, stop }) => segment.shown(first, stop));
  return words.map(({ text }) => text).join("").trimStart();
}

/**
 * Whether a paragraph ends before the next word.
 * @param {string} text
 * @param {boolean} fresh whether the word begins a segment
 * @param {string} next the word
 */
export function isFull(text, fresh, next) {
  if (text.length <= PARAGRAPH_CHARS) return false;
  if (fresh || SENTENCE_END.test(text)) return true;
  if (text.length > LONG_CHARS && CLAUSE_END.test(text)) return true;
  // Scripts without spaces break anywhere.
  return text.length > LONGEST_CHARS && (/^\s/u.test(next) || text.length > 2 * LONGEST_CHARS);
}
