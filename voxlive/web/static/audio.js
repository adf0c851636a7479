/**
 * The sound of a session, to be heard again. In the browser it is kept as mu-law (ITU-T G.711) at 16 kHz on
 * the transcript's clock: 58 MB an hour. Of several sources it is the mix.
 */
import { AUDIO_BLOCK, StoreError } from "./store.js";

const RATE = 16_000;
const PIECE_S = 60; // that is played at a time
const EARLY = 500; // messages of 40 ms
const BIAS = 132;
const MOST = 32_635;

/** Keeps the sound of a recording in the browser's store, a few seconds at a time. */
export class AudioKeeper {
  #store;
  #session;
  #failed;
  #block = new Uint8Array(AUDIO_BLOCK);
  #filled = 0;
  #at = 0; // of the block
  #over = false;

  /**
   * @param {import("./store.js").BrowserStore} store
   * @param {string} session
   * @param {(error: Error) => void} failed called once; nothing is kept after it
   */
  constructor(store, session, failed) {
    this.#store = store;
    this.#session = session;
    this.#failed = failed;
  }

  /** @param {Int16Array} pcm @param {number} channels interleaved @param {number} at its first sample */
  push(pcm, channels, at) {
    if (this.#over) return;
    if (this.#filled > 0 && at !== this.#at + this.#filled) this.flush();
    if (this.#filled === 0) this.#at = at;
    for (let from = 0; from < pcm.length; from += channels) {
      let sum = 0;
      for (let channel = 0; channel < channels; channel++) sum += pcm[from + channel];
      this.#block[this.#filled++] = encoded(Math.max(-32_768, Math.min(32_767, sum)));
      if (this.#filled === AUDIO_BLOCK) this.flush();
    }
  }

  /** Writes what there is. */
  flush() {
    if (this.#filled === 0 || this.#over) return;
    const mulaw = this.#block.slice(0, this.#filled);
    this.#store.keepAudio(this.#session, this.#at, mulaw).catch((error) => {
      if (!this.#over) this.#failed(error);
      this.#over = true;
    });
    this.#at += this.#filled;
    this.#filled = 0;
  }
}

/** What can be heard of the session on the page: its file, what this browser keeps, what the server does. */
export class SessionAudio {
  /** @type {File | null} whose transcript it is */
  file = null;
  /** There is sound of it in this browser. */
  kept = false;
  #store;
  #parts;
  #failed;
  #session = "";
  /** @type {{pcm: Int16Array, channels: number, at: number}[] | null} before the session has an id */
  #early = null;
  /** @type {AudioKeeper | null} */
  #keeper = null;

  /**
   * @param {import("./store.js").Store} store
   * @param {import("./parts.js").Parts} parts of the server's sessions
   * @param {(error: Error) => void} failed this browser keeps no more
   */
  constructor(store, parts, failed) {
    this.#store = store;
    this.#parts = parts;
    this.#failed = failed;
  }

  /** It is a session of the browser's store, which may have sound of it. @param {string} session */
  async open(session) {
    this.#session = session;
    try {
      this.kept ||= Boolean(await this.#store.browser?.hasAudio(session));
    } catch (error) {
      if (!(error instanceof StoreError)) throw error; // else it cannot be heard
    }
  }

  /** Keeps what is recorded from here on. @param {string} session "" before it has an id */
  keep(session) {
    const { browser } = this.#store;
    if (this.#keeper || !browser) return;
    this.#early ??= [];
    if (session === "") return;
    this.#session = session;
    this.#keeper = new AudioKeeper(browser, session, this.#failed);
    this.kept = true;
    for (const { pcm, channels, at } of this.#early) this.#keeper.push(pcm, channels, at);
    this.#early = null;
  }

  /** @param {Int16Array} pcm @param {number} channels @param {number} at */
  push(pcm, channels, at) {
    this.#keeper?.push(pcm, channels, at);
    this.#early?.push({ pcm: pcm.slice(), channels, at });
    if (this.#early && this.#early.length > EARLY) this.#early.shift();
  }

  /** Writes what there is. */
  flush() {
    this.#keeper?.flush();
  }

  /** The recording is over. */
  stop() {
    this.flush();
    this.#keeper = this.#early = null;
  }

  get audible() {
    return this.file !== null || this.kept || this.#parts.audible;
  }

  /** The sound of a moment. @param {number} t @returns {Promise<import("./player.js").Piece | null>} */
  async at(t) {
    if (this.file) return { url: URL.createObjectURL(this.file), start: 0, end: Infinity };
    this.flush();
    const { browser } = this.#store;
    const kept = browser && this.kept ? await keptPiece(browser, this.#session, t) : null;
    return kept ?? this.#parts.soundAt(t);
  }
}

/**
 * A piece of what the browser has kept, from a moment on.
 * @param {import("./store.js").BrowserStore} store @param {string} session @param {number} t seconds
 * @returns {Promise<import("./player.js").Piece | null>} null where there is nothing
 */
export async function keptPiece(store, session, t) {
  const from = Math.max(0, Math.floor(t * RATE));
  const rows = await store.audio(session, from, from + PIECE_S * RATE);
  const last = rows.at(-1);
  const end = last ? Math.min(last.at + last.mulaw.length, from + PIECE_S * RATE) : from;
  if (end <= from) return null;
  const pcm = new Int16Array(end - from);
  for (const { at, mulaw } of rows) {
    for (let n = Math.max(0, from - at); n < mulaw.length && at + n < end; n++) {
      pcm[at + n - from] = decoded(mulaw[n]);
    }
  }
  const url = URL.createObjectURL(new Blob([wavHeader(pcm.length), pcm], { type: "audio/wav" }));
  return { url, start: from / RATE, end: end / RATE };
}

/** @param {number} samples */
function wavHeader(samples) {
  const view = new DataView(new ArrayBuffer(44));
  const text = (/** @type {number} */ at, /** @type {string} */ four) => {
    for (let n = 0; n < 4; n++) view.setUint8(at + n, four.charCodeAt(n));
  };
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples, true);
  text(8, "WAVE");
  text(12, "fmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, RATE, true);
  view.setUint32(28, 2 * RATE, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * samples, true);
  return view.buffer;
}

/** A sample as mu-law. @param {number} sample */
function encoded(sample) {
  const size = Math.min(Math.abs(sample), MOST) + BIAS;
  const exponent = 24 - Math.clz32(size);
  const mantissa = (size >> (exponent + 3)) & 15;
  return ~((sample < 0 ? 128 : 0) | (exponent << 4) | mantissa) & 255;
}

/** @param {number} byte */
function decoded(byte) {
  const bits = ~byte;
  const size = ((((bits & 15) << 3) + BIAS) << ((bits >> 4) & 7)) - BIAS;
  return bits & 128 ? -size : size;
}
