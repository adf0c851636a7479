/**
 * Captured audio in, transcript events out, over as many live sessions as the network makes needed.
 *
 * The newest 30 s are kept. When a session is lost a new one begins after the last word that was
 * said, so audio is heard again rather than lost; what no longer fits is reported as a gap. Times
 * in events are seconds in the transcript: `origin` plus the position in the captured audio.
 */
import { LiveSession } from "./live.js";
import { PcmRing } from "./ring.js";

export const RATE = 16_000;
export const KEPT_S = 30;
const BLOCK = 3200; // samples in a message when catching up
const FULL_BYTES = 64_000; // 2 s waiting in the socket: send no more until it drains
const STALL_MS = 10_000; // a socket that stays full this long is dead
const MARGIN_S = 5; // what may have been under way when a connection broke
const HEALTHY_MS = 10_000;
const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 15_000;
/** How often in a row a new session is tried after each failure; others are final. */
const RETRIES = new Map([
  ["lost", Infinity],
  ["unreachable", Infinity],
  ["no_answer", Infinity],
  ["server_full", Infinity],
  ["shutting_down", Infinity],
  ["session_expired", Infinity],
  ["idle", Infinity],
  ["rate_limit_exceeded", Infinity],
  ["too_many_sessions", Infinity],
  ["overrun", Infinity],
  ["bad_server", 3],
  ["slow_client", 3],
  ["engine_failed", 3],
  ["vad_failed", 3],
  ["internal", 3],
]);
const STOPPING_RETRIES = 3;

/**
 * @typedef {import("./live.js").Failure} Failure
 * @typedef {object} Gap
 * @property {number} at where the new session takes up, in seconds
 * @property {number} lost seconds that were neither transcribed nor kept
 * @property {number} replayed seconds that are heard again
 * @property {string} code why
 * @typedef {object} LinkListener
 * @property {(message: any) => void} ready the first session is open
 * @property {(message: any) => void} event a server message, its times in the transcript's
 * @property {(failure: Failure) => void} waiting the connection is lost; trying again
 * @property {(gap: Gap) => void} resumed
 * @property {(failure: Failure | null, missing: number) => void} ended the last call
 */

export class Link {
  #url;
  #start;
  #origin;
  #listener;
  #ring = new PcmRing(KEPT_S * RATE);
  /** @type {LiveSession | null} */
  #session = null;
  #name = ""; // of the session, once ready
  #from = 0; // position of the session's first sample
  #next = 0; // position of the next sample to send
  #settled = 0; // everything before this position has been said
  #speaking = false;
  #drafted = false;
  #behind = 0;
  #stopping = false;
  #told = false; // `stop` has been sent
  #flowed = 0; // when the socket last took audio
  #readyAt = 0; // when this session was ready, 0 before
  #sessions = 0; // that were ready
  #tries = 0;
  #reason = ""; // of the last failure
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #retryNow = () => this.#hurry();

  /**
   * @param {string} url
   * @param {object} start fields for the `start` message: vad, language...
   * @param {number} origin seconds in the transcript at which the captured audio begins
   * @param {LinkListener} listener
   */
  constructor(url, start, origin, listener) {
    this.#url = url;
    this.#start = { format: "s16le", rate: RATE, channels: 1, ...start };
    this.#origin = origin;
    this.#listener = listener;
    addEventListener("online", this.#retryNow);
    this.#connect();
  }

  /** Seconds captured so far. */
  get captured() {
    return this.#ring.end / RATE;
  }

  /** Seconds between what was captured and what the engine has been through, as far as known. */
  get behind() {
    const waiting = (this.#session?.buffered ?? 0) / 2;
    return this.#behind + (this.#ring.end - this.#next + waiting) / RATE;
  }

  /** @param {Int16Array} pcm */
  push(pcm) {
    this.#ring.push(pcm);
    this.#pump();
  }

  /** No more audio comes: bring out the rest. */
  stop() {
    this.#stopping = true;
    this.#pump();
    this.#hurry();
  }

  /** Ends at once, whatever is under way. */
  abort() {
    if (this.#session) this.#session.abort("aborted");
    else this.#end({ code: "aborted", message: "" });
  }

  #connect() {
    this.#session = new LiveSession(this.#url, this.#start, {
      message: (message) => this.#receive(message),
      closed: (failure) => this.#closed(failure),
    });
  }

  /** @param {any} message */
  #receive(message) {
    if (message.type === "ready") this.#ready(message);
    else {
      this.#follow(message);
      this.#listener.event(this.#translate(message));
    }
  }

  /** @param {any} message */
  #ready(message) {
    this.#readyAt = this.#flowed = performance.now();
    const resume = this.#resumeAt();
    const late = this.#reason === "overrun" ? this.#ring.end : this.#ring.start;
    const sent = this.#next;
    this.#from = this.#next = Math.max(resume, late);
    this.#name = message.session;
    this.#speaking = this.#drafted = false;
    this.#settled = this.#from;
    if (this.#sessions++ === 0) this.#listener.ready(message);
    else {
      this.#listener.resumed({
        at: this.#seconds(0),
        lost: (this.#from - resume) / RATE,
        replayed: Math.max(0, sent - this.#from) / RATE,
        code: this.#reason,
      });
    }
    this.#pump();
  }

  /** Keeps what a later session needs to know. @param {any} message */
  #follow(message) {
    const settle = (/** @type {number} */ t) => {
      this.#settled = Math.max(this.#settled, this.#from + Math.round(t * RATE));
    };
    switch (message.type) {
      case "words":
        return settle(message.words.at(-1)?.end ?? 0);
      case "segment":
        return settle(message.end);
      case "draft":
        this.#drafted = message.text !== "";
        break;
      case "lag":
        this.#behind = message.behind_s;
        break;
      case "speech_started":
        if (!this.#speaking && !this.#drafted) settle(message.t - 1);
        this.#speaking = true;
        break;
      case "speech_stopped":
        this.#speaking = false;
        break;
      case "done": // with what was heard: a server that ends may have left out the rest
        settle(message.duration);
        this.#next = this.#settled;
        this.#speaking = this.#drafted = false;
    }
  }

  /** Where a new session has to begin so that nothing is missed and nothing said twice. */
  #resumeAt() {
    if (this.#speaking || this.#drafted) return this.#settled;
    return Math.max(this.#settled, this.#next - MARGIN_S * RATE);
  }

  /** @param {number} t seconds in the session */
  #seconds(t) {
    return this.#origin + this.#from / RATE + t;
  }

  /** @param {any} message */
  #translate(message) {
    const moved = { ...message };
    for (const key of ["t", "start", "end"]) {
      if (key in message) moved[key] = this.#seconds(message[key]);
    }
    if ("words" in message) {
      moved.words = message.words.map((/** @type {import("./live.js").Word} */ word) => ({
        ...word,
        start: this.#seconds(word.start),
        end: this.#seconds(word.end),
      }));
    }
    const segment = message.type === "segment" ? message.id : message.segment;
    if (segment !== undefined) moved.segment = `${this.#name}/${segment}`;
    return moved;
  }

  #pump() {
    const session = this.#session;
    if (!session?.open || this.#name === "" || this.#told) return;
    if (this.#next < this.#ring.start) return session.abort("overrun");
    while (this.#next < this.#ring.end && session.buffered < FULL_BYTES) {
      const pcm = this.#ring.read(this.#next, BLOCK);
      session.send(pcm);
      this.#next += pcm.length;
      this.#flowed = performance.now();
    }
    if (this.#next < this.#ring.end) {
      if (performance.now() - this.#flowed > STALL_MS) session.abort("lost");
      else this.#later(50, () => this.#pump());
    } else if (this.#stopping) {
      this.#told = true;
      session.stop();
    }
  }

  /** @param {Failure | null} failure */
  #closed(failure) {
    this.#session = null;
    this.#name = "";
    this.#told = false;
    this.#behind = 0;
    if (this.#readyAt > 0 && performance.now() - this.#readyAt > HEALTHY_MS) this.#tries = 0;
    this.#readyAt = 0;
    if (failure === null || this.#sessions === 0 || this.#tries >= this.#most(failure)) {
      return this.#end(failure);
    }
    this.#reason = failure.code;
    const delay = Math.min(LAST_RETRY_MS, FIRST_RETRY_MS * 2 ** this.#tries++);
    this.#later(delay * (0.5 + Math.random() / 2), () => this.#connect());
    this.#listener.waiting(failure);
  }

  /** @param {Failure} failure */
  #most({ code }) {
    const most = RETRIES.get(code) ?? 0;
    return this.#stopping ? Math.min(most, STOPPING_RETRIES) : most;
  }

  /** @param {number} ms @param {() => void} act */
  #later(ms, act) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(act, ms);
  }

  #hurry() {
    if (this.#session === null) this.#later(0, () => this.#connect());
  }

  /** @param {Failure | null} failure */
  #end(failure) {
    clearTimeout(this.#timer);
    removeEventListener("online", this.#retryNow);
    const missing = failure === null ? 0 : (this.#ring.end - this.#resumeAt()) / RATE;
    this.#listener.ended(failure, missing);
  }
}
