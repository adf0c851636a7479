/**
 * How far a live session has come, as far as its client knows: what it takes to go on with it, or with
 * another one behind it. Positions are samples since capture began, of all channels together.
 */

import { UnstoredMessages } from "./kept.js";

const MARGIN_S = 15; // what may have been under way before the last message came
/** In a resumable session these have no number. */
const UNNUMBERED = ["draft", "lag", "ack", "recovered", "resumed", "suspended"];

/**
 * @typedef {import("./link.js").Word} Word
 * @typedef {object} ProgressState what a later page needs of it
 * @property {string} name of the session
 * @property {string} token that it is resumed with, "" if it cannot be
 * @property {number} have number of the last message
 * @property {number} from position of the session's first sample
 * @property {number} settled every word before it has come
 * @property {Record<string, number>} [heard] the same for each of several sources
 * @property {number} [words] how many words have come
 * @property {boolean} open whether somebody was speaking
 * @property {any[]} [received] messages that the server may not have stored
 */

export class Progress {
  /** Of the session, if it can be resumed. */
  token = "";
  /** Of the session. */
  name = "";
  /** Number of the last message. */
  have = -1;
  /** Position of the session's first sample. */
  from = 0;
  #rate;
  #origin;
  /** By source: every word before this position has come. @type {Map<string, number>} */
  #settled;
  /** By source: words before this position came in the session before. @type {Map<string, number>} */
  #repeated = new Map();
  /** @type {Set<string>} sources in which somebody speaks */
  #speaking = new Set();
  /** @type {Set<string>} sources with a draft */
  #drafted = new Set();
  #words = 0; // that have come
  /** @type {UnstoredMessages | null} */
  #unstored = null; // of a session that the server stores

  /** @param {number} rate @param {number} origin seconds @param {string[]} sources none: one alone */
  constructor(rate, origin, sources) {
    this.#rate = rate;
    this.#origin = origin;
    this.#settled = new Map((sources.length > 0 ? sources : [""]).map((name) => [name, 0]));
  }

  /** @returns {ProgressState} */
  get state() {
    const { name, token, have, from, settled, open } = this;
    const several = this.#settled.size > 1;
    const heard = several ? { heard: Object.fromEntries(this.#settled) } : {};
    const received = this.#unstored?.list;
    return { name, token, have, from, settled, ...heard, words: this.#words, open, received };
  }

  /** @param {ProgressState} state */
  restore({ name, token, have, from, settled, heard = {}, words = 0, open, received }) {
    Object.assign(this, { name, token, have, from });
    this.#unstored = received ? new UnstoredMessages(received) : null;
    for (const source of this.#settled.keys()) {
      this.#settled.set(source, Math.max(heard[source] ?? settled, from));
      if (open) this.#speaking.add(source);
    }
    this.#words = words;
  }

  /** Every word before it has come, of every source. */
  get settled() {
    return Math.min(...this.#settled.values());
  }

  /** Whether somebody speaks, or a draft waits to become words. */
  get open() {
    return this.#speaking.size > 0 || this.#drafted.size > 0;
  }

  /** Another session begins at this position. @param {string} name @param {string} token @param {number} from */
  begin(name, token, from) {
    Object.assign(this, { name, token, from });
    if (this.#settled.size > 1) this.#repeated = new Map(this.#settled);
    for (const [source, at] of this.#settled) this.#settled.set(source, Math.max(at, from));
    this.#close();
    this.#words = 0;
  }

  /** The session is over: whatever comes before this position has come. @param {number} at */
  finish(at) {
    this.token = "";
    this.settle(at);
    this.#close();
  }

  /** @param {number} at of every source */
  settle(at) {
    for (const source of this.#settled.keys()) this.#settle(source, at);
  }

  /** Whether it is the next numbered message, or one without a number. @param {any} message */
  counts(message) {
    const { type, seq } = message;
    if (seq === undefined) return this.token !== "" && UNNUMBERED.includes(type);
    if (seq !== (type === "ready" ? 0 : this.have + 1)) return false;
    this.have = seq;
    if (type === "ready") this.#unstored = message.store ? new UnstoredMessages() : null;
    else this.#unstored?.push(message);
    return true;
  }

  /** The messages that the server may not have stored, which it gets back. */
  get received() {
    return this.#unstored?.list ?? [];
  }

  /** The server has stored those up to this number. @param {number} [upto] */
  stored(upto) {
    this.#unstored?.stored(upto);
  }

  /** Keeps what a new session would need to know. @param {any} message */
  follow(message) {
    const { source = "" } = message;
    const upto = (/** @type {number} */ t) => {
      this.#settle(source, this.from + Math.round(t * this.#rate));
    };
    switch (message.type) {
      case "words":
        return upto(message.words.at(-1)?.end ?? 0);
      case "segment":
        this.#drafted.delete(source);
        return upto(message.end);
      case "draft":
        if (message.text !== "") this.#drafted.add(source);
        else this.#drafted.delete(source);
        break;
      case "speech_started":
        if (!this.#speaking.has(source) && !this.#drafted.has(source)) upto(message.t - 1);
        this.#speaking.add(source);
        break;
      case "speech_stopped":
        this.#speaking.delete(source);
    }
  }

  /**
   * Where a new session has to begin so that nothing is missed and nothing comes twice.
   * @param {number} answered what had been sent when the last message came
   */
  resumeAt(answered) {
    return this.open ? this.settled : Math.max(this.settled, answered - MARGIN_S * this.#rate);
  }

  /** @param {number} t seconds in the session, as a time of the transcript */
  seconds(t) {
    return this.#origin + this.from / this.#rate + t;
  }

  /**
   * A message whose times are those of the transcript and whose segment is unique over all sessions.
   * Its words have their numbers in the server's session.
   * @param {any} message
   */
  translate(message) {
    const moved = { ...message };
    for (const key of ["t", "start", "end"]) {
      if (key in message) moved[key] = this.seconds(message[key]);
    }
    if (message.type === "words") moved.words = this.#translateWords(message);
    if (message.type === "speakers") {
      moved.ranges = message.ranges.map((/** @type {any} */ one) => ({ ...one, key: `${this.name}/${one.segment}` }));
    }
    if (message.type === "speaker_named") moved.key = `${this.name}/`;
    const segment = message.type === "segment" ? message.id : message.segment;
    if (segment !== undefined) moved.segment = `${this.name}/${segment}`;
    return moved;
  }

  /** @param {{words: Word[], source?: string}} message */
  #translateWords({ words, source = "" }) {
    const first = this.#words;
    this.#words += words.length;
    const come = (this.#repeated.get(source) ?? -Infinity) - this.from;
    return words
      .map((word, index) => ({ ...word, number: first + index }))
      .filter(({ start, end }) => ((start + end) / 2) * this.#rate >= come)
      .map((word) => ({ ...word, start: this.seconds(word.start), end: this.seconds(word.end) }));
  }

  #close() {
    this.#speaking.clear();
    this.#drafted.clear();
  }

  /** @param {string} source @param {number} at */
  #settle(source, at) {
    this.#settled.set(source, Math.max(this.#settled.get(source) ?? 0, at));
  }
}
