/**
 * The transcript as data: segments of words with their times, and what is shown of them.
 *
 * Committed words are only ever appended. Memory grows by the words alone, some 100 bytes each: an
 * eight-hour day of speech is about 70,000 words.
 */

export const PARAGRAPH_PAUSE_S = 1.5; // a pause this long begins a new paragraph
const PARAGRAPH_CHARS = 300; // a longer paragraph ends with its sentence or segment
const LONG_CHARS = 600; // a longer one ends with its clause
const LONGEST_CHARS = 900; // a longer one ends with its word
const SENTENCE_END = /[.!?…。！？؟।]["'”’»)\]]*\s*$/u;
const CLAUSE_END = /[,;:—、，；：،]["'”’»)\]]*\s*$/u;
const UNWORDED = 100; // beginnings of speech that are remembered while no word comes

/**
 * @typedef {import("./link.js").Word} Word
 * @typedef {{key: string, words: Word[], whole: boolean}} Segment `whole`: its words' times are not
 *   known, and all of them stand as one
 * @typedef {{kind: "paragraph", start: number, end: number, text: string}} Paragraph
 * @typedef {{kind: "mark", at: number, text: string, own?: boolean}} Mark something that happened,
 *   in words; `own`: set by the reader
 * @typedef {{kind: "words", key: string, words: Word[], whole: boolean}} Run words of one segment
 *   without a mark between them
 * @typedef {Run | Mark} Entry
 * @typedef {{key: string, text: string, start: number, apart: boolean}} Draft
 *   `apart` when it will begin a paragraph of its own
 */

export class Transcript {
  /** @type {Segment[]} */
  segments = [];
  /**
   * What is shown, in order. The last one before the marks that are `ahead` grows, others come behind
   * it.
   * @type {(Paragraph | Mark)[]}
   */
  items = [];
  /** @type {Entry[]} all that came, from which all else follows; it grows as `items` do */
  entries = [];
  /** How many marks at the end of both may have words before them that have not come yet. */
  ahead = 0;
  /** @type {Draft | null} what may still change */
  draft = null;
  /** What it was made of and with, for the JSON file. @type {Record<string, unknown>} */
  about = {};
  /** Of its audio in seconds, once that is over: no subtitle outlasts it. */
  duration = Infinity;
  /** @type {number[]} where speech began, since the last word */
  #begun = [];

  /** From what another one had. @param {Entry[]} entries @param {Record<string, unknown>} about */
  static of(entries, about) {
    const transcript = new Transcript();
    transcript.about = about;
    for (const entry of entries) {
      transcript.settle();
      if (entry.kind === "words") transcript.words(entry.key, entry.words, entry.whole);
      else transcript.mark(entry.at, entry.text, entry.own);
    }
    return transcript;
  }

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
      this.#pass(word.start);
      this.#log(key, word, whole);
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
    const last = this.#last(this.items);
    const heard = last?.kind === "paragraph" ? last.end : -Infinity;
    const begun = this.#begun.findLast((t) => t <= upto) ?? this.#begun[0] ?? 0;
    const start = Math.max(begun, heard);
    const apart = last?.kind !== "paragraph" || start - heard >= PARAGRAPH_PAUSE_S;
    this.draft = { key, text, start, apart };
  }

  /** Something happened at this place. @param {number} at @param {string} text @param {boolean} own */
  mark(at, text, own = false) {
    /** @type {Mark} */
    const mark = { kind: "mark", at, text, ...(own && { own }) };
    this.entries.push(mark);
    this.items.push(mark);
    this.ahead += 1;
  }

  /** Every word before the marks has come. */
  settle() {
    this.ahead = 0;
  }

  /** Nothing comes any more that is before this time. @param {number} t */
  #pass(t) {
    while (this.ahead > 0) {
      const mark = this.items[this.items.length - this.ahead];
      if (mark.kind === "mark" && mark.at > t) break;
      this.ahead -= 1;
    }
  }

  /** What the next words are put behind. @template T @param {T[]} list @returns {T | undefined} */
  #last(list) {
    return list[list.length - this.ahead - 1];
  }

  /**
   * No words will replace the draft any more: it stays, told apart from what was confirmed.
   * @param {(text: string) => string} told as such, in words
   */
  keepDraft(told) {
    if (this.draft === null) return;
    const { start, text } = this.draft;
    this.draft = null;
    this.mark(start, told(text.trim()));
  }

  /** @param {string} key @param {Word} word @param {boolean} whole */
  #log(key, word, whole) {
    const last = this.#last(this.entries);
    if (last?.kind === "words" && last.key === key) last.words.push(word);
    else {
      const run = /** @type {Run} */ ({ kind: "words", key, words: [word], whole });
      this.entries.splice(this.entries.length - this.ahead, 0, run);
    }
  }

  /** @param {Word} word @param {boolean} fresh whether it begins a segment */
  #show(word, fresh) {
    const last = this.#last(this.items);
    const goesOn =
      last?.kind === "paragraph" &&
      word.start - last.end < PARAGRAPH_PAUSE_S &&
      !isFull(last.text, fresh, word.text);
    if (goesOn) {
      last.text += word.text;
      last.end = Math.max(last.end, word.end);
    } else {
      const { start, end, text } = word;
      const paragraph = /** @type {Paragraph} */ ({ kind: "paragraph", start, end, text: text.trimStart() });
      this.items.splice(this.items.length - this.ahead, 0, paragraph);
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

/**
 * Whether a paragraph ends before the next word.
 * @param {string} text
 * @param {boolean} fresh whether the word begins a segment
 * @param {string} next the word
 */
function isFull(text, fresh, next) {
  if (text.length <= PARAGRAPH_CHARS) return false;
  if (fresh || SENTENCE_END.test(text)) return true;
  if (text.length > LONG_CHARS && CLAUSE_END.test(text)) return true;
  // Scripts without spaces break anywhere.
  return text.length > LONGEST_CHARS && (/^\s/u.test(next) || text.length > 2 * LONGEST_CHARS);
}

/** @param {Segment} segment */
export function textOf(segment) {
  return segment.words.map((word) => word.text).join("");
}
