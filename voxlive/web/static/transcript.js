/**
 * The transcript as data: segments of words with their times, and what is shown of them.
 *
 * Committed words are only ever appended. Memory grows by the words alone, some 100 bytes each: an
 * eight-hour day of speech is about 70,000 words.
 */

export const PARAGRAPH_PAUSE_S = 1.5; // a pause this long begins a new paragraph
const PARAGRAPH_CHARS = 300; // a longer paragraph ends with its segment
const UNWORDED = 100; // beginnings of speech that are remembered while no word comes

/**
 * @typedef {import("./link.js").Word} Word
 * @typedef {{key: string, words: Word[], whole: boolean}} Segment `whole`: its words' times are not
 *   known, and all of them stand as one
 * @typedef {{kind: "paragraph", start: number, end: number, text: string}} Paragraph
 * @typedef {{kind: "mark", at: number, text: string}} Mark something that happened, in words
 * @typedef {{key: string, text: string, start: number, apart: boolean}} Draft
 *   `apart` when it will begin a paragraph of its own
 */

export class Transcript {
  /** @type {Segment[]} */
  segments = [];
  /** @type {(Paragraph | Mark)[]} what is shown, in order; only the last one grows */
  items = [];
  /** @type {Draft | null} what may still change */
  draft = null;
  /** What it was made of and with, for the JSON file. @type {Record<string, unknown>} */
  about = {};
  /** Of its audio in seconds, once that is over: no subtitle outlasts it. */
  duration = Infinity;
  /** @type {number[]} where speech began, since the last word */
  #begun = [];

  get empty() {
    return this.segments.length === 0 && this.items.length === 0;
  }

  get wordCount() {
    return this.segments.reduce((sum, segment) => sum + segment.words.length, 0);
  }

  /** All committed words: exactly their texts joined, segment by segment. */
  get text() {
    return this.segments.map(textOf).join("");
  }

  /** @param {number} t */
  speechStarted(t) {
    if (this.#begun.push(t) > UNWORDED) this.#begun.shift();
  }

  /** @param {string} key the segment @param {Word[]} words @param {boolean} whole */
  words(key, words, whole = false) {
    let segment = this.segments.at(-1);
    for (const word of words) {
      const fresh = segment?.key !== key;
      if (segment === undefined || segment.key !== key) {
        segment = { key, words: [], whole };
        this.segments.push(segment);
      }
      segment.words.push(word);
      this.#show(word, fresh);
    }
    const heard = words.at(-1)?.end ?? 0;
    this.#begun = this.#begun.filter((t) => t > heard);
    if (this.draft?.key === key) this.#consume(words.map((word) => word.text).join(""));
  }

  /**
   * Replaces the draft.
   * @param {string} key the segment
   * @param {string} text
   * @param {number} upto about where the engine is: speech that began later is not in the draft
   */
  drafted(key, text, upto = Infinity) {
    if (text.trim() === "") {
      this.draft = null;
      return;
    }
    const last = this.items.at(-1);
    const heard = last?.kind === "paragraph" ? last.end : -Infinity;
    const begun = this.#begun.findLast((t) => t <= upto) ?? this.#begun[0] ?? 0;
    const start = Math.max(begun, heard);
    const apart = last?.kind !== "paragraph" || start - heard >= PARAGRAPH_PAUSE_S;
    this.draft = { key, text, start, apart };
  }

  /** Something happened at this place. @param {number} at @param {string} text */
  mark(at, text) {
    this.items.push({ kind: "mark", at, text });
    if (this.draft) this.draft.apart = true;
  }

  /** No words will replace the draft any more: it stays, told apart from what was confirmed. */
  keepDraft() {
    if (this.draft === null) return;
    const { start, text } = this.draft;
    this.draft = null;
    this.mark(start, `Heard but not confirmed: ${text.trim()}`);
  }

  /** @param {Word} word @param {boolean} fresh whether it begins a segment */
  #show(word, fresh) {
    const last = this.items.at(-1);
    const goesOn =
      last?.kind === "paragraph" &&
      word.start - last.end < PARAGRAPH_PAUSE_S &&
      !(fresh && last.text.length > PARAGRAPH_CHARS);
    if (goesOn) {
      last.text += word.text;
      last.end = Math.max(last.end, word.end);
    } else {
      const { start, end } = word;
      this.items.push({ kind: "paragraph", start, end, text: word.text.trimStart() });
    }
  }

  /**
   * The draft follows the committed words: what has been committed leaves it.
   * @param {string} text
   */
  #consume(text) {
    const draft = /** @type {Draft} */ (this.draft);
    const rest = draft.text.startsWith(text) ? draft.text.slice(text.length) : "";
    this.drafted(draft.key, rest, draft.start);
  }
}

/** @param {Segment} segment */
export function textOf(segment) {
  return segment.words.map((word) => word.text).join("");
}
