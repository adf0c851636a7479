/**
 * Writes the transcript that is on the page to the browser's store, as it comes. While a write is
 * under way changes gather, so that the next one takes them all; each has the words and the number
 * of the message that they came with together, so that a session that goes on gets none twice.
 */
import { previewOf, StoreError } from "./store.js";

const SOUND_MOST_S = 600; // that is written while the line is down
const RATE = 16_000;

/**
 * @typedef {import("./store.js").BrowserStore} BrowserStore
 * @typedef {import("./store.js").SessionInfo} SessionInfo
 * @typedef {import("./store.js").Unfinished} Unfinished
 * @typedef {import("./transcript.js").Transcript} Transcript
 * @typedef {object} Present what is to be written
 * @property {Transcript} transcript
 * @property {number} seconds
 * @property {string} language
 * @property {boolean} complete
 * @property {import("./parts.js").Part[]} [parts] of the server's sessions
 * @property {Unfinished | null} unfinished
 * @property {(from: number) => {at: number, pcm: Int16Array}} [soundFrom] while the line is down
 */

export class Journal {
  #store;
  #present;
  #failed;
  /** @type {SessionInfo} */
  #info;
  /** @type {{entry: import("./transcript.js").Entry, length: number}[]} in the store, by their place */
  #rows;
  #ahead = 0; // of the rows
  #soundUpto = 0;
  #dirty = false;
  /** @type {Promise<void> | null} */
  #writing = null;
  #closed = false;

  /**
   * @param {BrowserStore} store
   * @param {() => Present} present
   * @param {(error: StoreError) => void} failed called once; nothing is written after it
   * @param {SessionInfo | null} [info] of a session that goes on
   * @param {import("./transcript.js").Entry[]} [entries] that are written
   */
  constructor(store, present, failed, info = null, entries = []) {
    this.#store = store;
    this.#present = present;
    this.#failed = failed;
    this.#info = info ?? fresh();
    this.#rows = entries.map((entry) => ({ entry, length: lengthOf(entry) }));
    this.#soundUpto = info?.unfinished?.link.captured ?? 0;
  }

  get id() {
    return this.#info.id;
  }

  /** Whether all is written. */
  get saved() {
    return !this.#closed && !this.#dirty && this.#writing === null;
  }

  /** Ids of the server's sessions that it is made of. */
  get served() {
    return this.#info.served;
  }

  /** Another session of the server is a part of it. @param {string} id */
  serves(id) {
    this.#info.served = [...this.#info.served, id];
    this.touch();
  }

  /** @param {string} title */
  title(title) {
    this.#info.title = title;
    this.touch();
  }

  /** Something has changed. */
  touch() {
    if (this.#closed) return;
    this.#dirty = true;
    this.#writing ??= this.#write();
  }

  /** Resolves when all is written that there is now. */
  async flush() {
    while (this.#writing) await this.#writing;
  }

  /** Writes what there is now, and no more. */
  async close() {
    const last = this.#dirty && !this.#closed ? this.#tryOnce() : null;
    this.#dirty = false;
    this.#closed = true;
    await this.#writing;
    await last;
  }

  async #write() {
    while (this.#dirty && !this.#closed) {
      this.#dirty = false;
      await this.#tryOnce();
    }
    this.#writing = null;
  }

  async #tryOnce() {
    try {
      await this.#writeOnce();
    } catch (error) {
      this.#closed = true;
      if (!(error instanceof StoreError)) throw error;
      this.#failed(error);
    }
  }

  async #writeOnce() {
    const { transcript, seconds, language, complete, parts = [], unfinished, soundFrom } = this.#present();
    const { entries, about } = transcript;
    /** @type {[number, import("./transcript.js").Entry][]} */
    const rows = [];
    for (let at = Math.max(0, this.#rows.length - this.#ahead - 1); at < entries.length; at++) {
      const entry = entries[at];
      const length = lengthOf(entry);
      if (this.#rows[at]?.entry === entry && this.#rows[at].length === length) continue;
      rows.push([at, entry]);
      this.#rows[at] = { entry, length };
    }
    this.#ahead = transcript.ahead;
    const sound = soundFrom && unfinished ? this.#sound(unfinished.link, soundFrom) : [];
    Object.assign(this.#info, {
      updated: new Date().toISOString(),
      seconds,
      wordCount: transcript.wordCount,
      preview: previewOf(transcript),
      language,
      complete,
      parts: [...parts],
      running: unfinished !== null,
      unfinished,
    });
    await this.#store.write({ ...this.#info, about }, rows, sound);
  }

  /**
   * @param {import("./link.js").LinkState} link
   * @param {(from: number) => {at: number, pcm: Int16Array}} soundFrom
   */
  #sound({ captured, channels = 1 }, soundFrom) {
    const { at, pcm } = soundFrom(Math.max(this.#soundUpto, captured - SOUND_MOST_S * RATE));
    const samples = pcm.length / channels;
    this.#soundUpto = at + samples;
    const rows = [];
    for (let from = 0; from < samples; from += RATE) {
      rows.push({ at: at + from, pcm: pcm.slice(from * channels, (from + RATE) * channels) });
    }
    return rows;
  }
}

/** @param {import("./transcript.js").Entry} entry */
function lengthOf(entry) {
  return entry.kind === "words" ? entry.words.length : -1;
}

/** @returns {SessionInfo} */
function fresh() {
  const now = new Date().toISOString();
  return {
    id: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random().toString(36).slice(2)}`,
    place: "browser",
    title: "",
    created: now,
    updated: now,
    seconds: 0,
    wordCount: 0,
    preview: "",
    language: "",
    running: false,
    complete: false,
    served: [],
    unfinished: null,
    found: "",
  };
}
