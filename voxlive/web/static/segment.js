/** One utterance: its words as they were recognised, and the corrections over them. */

/**
 * @typedef {import("./link.js").Word} Word
 * @typedef {object} Correction
 * @property {string} key of the segment
 * @property {number} first of its words, by their place in it
 * @property {number} stop behind the last one
 * @property {string} text that stands for them; "" takes them out
 * @property {string} made when, ISO 8601
 * @property {string} [speaker] who speaks from here on, whose name it adds
 * @typedef {{first: number, stop: number}} Span numbers of the live words that a refined segment stands
 *   for: a correction of it is one of all of them
 * @typedef {Word & {first: number, stop: number, heard?: string}} ShownWord a word, or what stands for
 *   several: those from `first` to before `stop`; `heard`: what was recognised, where it is corrected
 */

export class Segment {
  /** @type {Word[]} as they were recognised */
  words = [];
  /** @type {Correction[]} in the order in which they were made */
  corrections = [];
  /** @type {(number | undefined)[]} of the words whose speaker is known */
  #speakers = [];

  /**
   * @param {string} key
   * @param {string} source "" where there is one alone
   * @param {boolean} whole its words' times are not known, and all of them stand as one
   * @param {Span} [span]
   */
  constructor(key, source, whole, span) {
    this.key = key;
    this.source = source;
    this.whole = whole;
    this.span = span;
  }

  /** Its words as they are corrected. */
  get text() {
    return this.shown().map(({ text }) => text).join("");
  }

  /** @param {Word} word */
  add(word) {
    if (word.speaker !== undefined) this.#speakers[this.words.length] = word.speaker;
    this.words.push(word);
  }

  /** Words from one to another are a speaker's. @param {number} first @param {number} last @param {number} speaker */
  label(first, last, speaker) {
    for (let at = first; at <= last && at < this.words.length; at++) this.#speakers[at] = speaker;
  }

  /** Whose a word is; where nobody knows yet, that of the one before. @param {number} at @returns {number | null} */
  speakerAt(at) {
    const before = this.#speakers.findLast((speaker, index) => index <= at && speaker !== undefined);
    return before ?? this.#speakers.find((speaker) => speaker !== undefined) ?? null;
  }

  /** One that has a word in common with an older one replaces it. @param {Correction} correction */
  correct(correction) {
    const { first, stop } = correction;
    this.corrections = this.corrections.filter((one) => one.stop <= first || stop <= one.first);
    // What stands there again as it was recognised is corrected no more.
    if (correction.text.trim() !== this.heard(first, stop).trim()) this.corrections.push(correction);
  }

  /** What takes a correction of these words back. @param {number} first @param {number} stop */
  restoring(first, stop) {
    const { key } = this;
    const over = this.corrections.filter((one) => one.first < stop && first < one.stop);
    /** @type {Correction[]} */
    const restoring = [...over];
    const bare = (/** @type {number} */ at) => !over.some((one) => one.first <= at && at < one.stop);
    for (let at = first; at < stop; at++) {
      if (bare(at)) restoring.push({ key, first: at, stop: at + 1, text: this.words[at].text, made: "" });
    }
    return restoring;
  }

  /** What was recognised. @param {number} first @param {number} stop */
  heard(first, stop) {
    return this.words.slice(first, stop).map(({ text }) => text).join("");
  }

  /**
   * What is shown for its words from one to before another: corrections stand where their first word
   * stood, from the start of that to the end of their last.
   * @param {number} [first] @param {number} [stop] @returns {ShownWord[]}
   */
  shown(first = 0, stop = this.words.length) {
    /** @type {ShownWord[]} */
    const shown = [];
    const over = this.corrections.filter((one) => one.first < stop && first < one.stop);
    for (let at = first; at < stop; at++) {
      const correction = over.find((one) => one.first <= at && at < one.stop);
      if (correction === undefined) shown.push({ ...this.words[at], first: at, stop: at + 1 });
      else if (correction.first === at && correction.text.trim() !== "") {
        shown.push(this.#corrected(correction));
      }
    }
    return shown;
  }

  /** @param {Correction} correction @returns {ShownWord} */
  #corrected({ first, stop, text }) {
    const { original, ...word } = this.words[first];
    const lead = word.text.slice(0, word.text.length - word.text.trimStart().length);
    const { end } = this.words[Math.min(stop, this.words.length) - 1];
    const heard = this.heard(first, stop).trim();
    return { ...word, text: lead + text.trim(), end, p: null, first, stop, heard };
  }
}
