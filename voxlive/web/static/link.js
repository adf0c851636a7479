/**
 * voxlive's reference client in JavaScript: audio in, words out, whatever the line does.
 *
 *     const link = new Link("ws://127.0.0.1:8000/v1/live", { language: "en" }, {
 *       event: (message) => console.log(message),
 *       ended: (failure, missing) => console.log(failure ?? "whole", missing),
 *     });
 *     link.push(pcm); // Int16Array, 16 kHz, again and again
 *     link.stop(); // the last words come, then `ended`
 *
 * For browsers and Node 22; beside this file it needs connection.js, kept.js and progress.js, nothing
 * else. It speaks WS /v1/live (docs/live-protocol.md), with `channels` and `sources` in `start` for several
 * sources, whose samples are interleaved. The session is resumable: audio is kept until it is acknowledged,
 * and when the line breaks the same session goes on over the next connection, every sample and every
 * message once. Where it cannot go on (a server that stores nothing was started again, or has waited too long) a new
 * session begins after the last word: audio is recognised again rather than lost.
 *
 * Bound: the newest `keptS` seconds of audio are kept, half an hour or 58 MB at 16 kHz. Beyond that
 * the oldest is dropped; what the server has not had of it is the `lost` of a gap.
 *
 * A program that ends may keep `state` and the sound of `soundFrom(state.kept)`; with these as options
 * another link goes on with the session.
 */
import {
  Connection,
  ENDINGS,
  GONE,
  NOT_RESUMABLE,
  REFUSALS,
  RETRIES,
} from "./connection.js";
import { KeptAudio, KeptCorrections } from "./kept.js";
import { Progress } from "./progress.js";

const RATE = 16_000;
const KEPT_S = 1800;
const GIVE_UP_S = 30;
const BLOCK_S = 0.2; // in a message when catching up
const FULL_S = 2; // waiting in the socket: send no more until it drains
const STALL_MS = 10_000; // a socket that stays full this long is dead
const SILENT_S = 15;
const DONE_MS = 20_000; // without any message, after `stop`
const ROUNDED_S = 0.02; // a session that ends with less than was sent has not had all of it
const HEALTHY_MS = 10_000;
const FIRST_RETRY_MS = 300;
const LAST_RETRY_MS = 15_000;
const FRUITLESS = 5; // connections in a row that bring nothing, after `stop`

/**
 * @typedef {object} Word
 * @property {string} text with its own leading space
 * @property {number} start
 * @property {number} end
 * @property {number | null} p null where it is not known
 * @property {string} [source] of several
 * @property {number} [speaker] from 0, where that is known as it comes
 * @property {number} [number] in the server's session
 * @property {string} [original] what was recognised, where it was replaced
 * @typedef {{code: string, message: string, fatal?: boolean}} Failure
 * @typedef {object} Gap a new session, for the one that was lost
 * @property {number} at where it begins, in seconds
 * @property {number} lost seconds that were neither transcribed nor kept
 * @property {number} replayed seconds that are recognised again
 * @property {string} code why the other one was lost
 * @typedef {object} SentState of the audio, in captured samples
 * @property {number} sent the next one to send
 * @property {number} kept the oldest one that may still be needed
 * @property {number} captured all of them
 * @property {number} [channels] of each
 * @typedef {import("./progress.js").ProgressState & SentState} LinkState what another link needs to go
 *   on with this one's session
 * @typedef {object} LinkListener each of them may be left out
 * @property {(message: any) => void} [ready] the first session is open
 * @property {(message: any) => void} [event] a server message, its times those of the captured
 *   audio, `segment` unique over all sessions
 * @property {(failure: Failure) => void} [waiting] not connected; trying again
 * @property {() => void} [resumed] connected again: the session goes on, nothing is missing
 * @property {(gap: Gap) => void} [restarted] connected again, with a new session
 * @property {(failure: Failure | null, missing: number) => void} [ended] the last call; `missing`:
 *   seconds at the end that were not transcribed
 * @typedef {object} LinkOptions
 * @property {number} [origin] seconds at which the captured audio begins, for times in events
 * @property {() => Promise<string[]>} [protocols] asked before every connection for sub-protocols,
 *   `["token", KEY]` where the server needs a key; it may throw a Failure
 * @property {number} [keptS] seconds of audio that are kept at most
 * @property {number} [giveUpS] after `stop`, for so long a lost connection is tried to get back;
 *   before it there is no end to it
 * @property {number} [silentS] a connection of a resumable session that brings nothing for so long
 *   is dead; the server sends something every 2 s
 * @property {LinkState} [state] of a link whose session goes on
 * @property {Int16Array[]} [sound] what that link had kept, up to `captured`
 */

export class Link {
  #url;
  #start;
  #listener;
  #rate;
  #frameBytes; // of a sample of all channels
  #progress;
  #protocols;
  #giveUpMs;
  #silentMs;
  #kept;
  #corrections = new KeptCorrections();
  /** @type {Connection | null} */
  #connection = null;
  #resumable = true; // as far as known
  #next = 0; // position of the next sample to send
  #answered = 0; // what had been sent when the last message came
  /** @type {Map<string, number>} seconds that each source is behind */
  #behind = new Map();
  #stopping = false;
  #stopped = false; // `stop` has been sent over this connection
  #flowed = 0; // when the socket last took audio
  #servedAt = 0; // when this connection had its `ready` or `resumed`, 0 before
  #arrived = 0; // position up to which the server is known to have the audio
  #arrivedAt = 0; // when the last message came
  #progressed = false; // this connection has brought or shown anything new
  #sessions = 0; // that were ready
  #tries = 0;
  #fruitless = 0;
  #lostAt = 0;
  #reason = ""; // of the first failure since the last connection that served
  #over = false;
  #restored = false; // and not connected since
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #retryNow = () => this.#hurry();

  /**
   * @param {string} url
   * @param {Record<string, unknown>} start fields for the `start` message: rate, vad, language...
   * @param {LinkListener} listener
   * @param {LinkOptions} [options]
   */
  constructor(url, start, listener, options = {}) {
    const { origin = 0, protocols = async () => [] } = options;
    const { keptS = KEPT_S, giveUpS = GIVE_UP_S, silentS = SILENT_S } = options;
    const { state, sound = [] } = options;
    this.#url = url;
    this.#rate = /** @type {number} */ (start.rate ?? RATE);
    const { channels = 1, sources = [] } = /** @type {{channels?: number, sources?: string[]}} */ (start);
    this.#start = { type: "start", rate: this.#rate, channels, ...start, format: "s16le" };
    this.#frameBytes = 2 * channels;
    this.#progress = new Progress(this.#rate, origin, sources);
    this.#listener = listener;
    this.#protocols = protocols;
    this.#giveUpMs = giveUpS * 1000;
    this.#silentMs = silentS * 1000;
    const before = sound.reduce((sum, pcm) => sum + pcm.length / channels, 0);
    this.#kept = new KeptAudio(keptS * this.#rate, state ? state.captured - before : 0, channels);
    for (const pcm of sound) this.#kept.push(pcm);
    if (state) this.#restore(state);
    globalThis.addEventListener?.("online", this.#retryNow);
    this.#connect();
  }

  /** What another link goes on from, together with `sound`. @returns {LinkState} */
  get state() {
    return {
      ...this.#progress.state,
      sent: this.#next,
      kept: this.#kept.start,
      captured: this.#kept.end,
      channels: this.#frameBytes / 2,
    };
  }

  /** @param {LinkState} state */
  #restore(state) {
    this.#progress.restore(state);
    this.#next = this.#answered = this.#arrived = Math.max(state.sent, this.#progress.settled);
    this.#sessions = 1;
    this.#restored = true;
  }

  /** A copy of the sound from a position on that is still kept. @param {number} from */
  soundFrom(from) {
    const at = Math.min(Math.max(from, this.#kept.start), this.#kept.end);
    return { at, pcm: this.#kept.read(at, this.#kept.end - at) };
  }

  /** Seconds since the connection that serves has brought anything; 0 without one. */
  get quiet() {
    return this.#servedAt === 0 ? 0 : (performance.now() - this.#arrivedAt) / 1000;
  }

  /** Lets go of the session, which waits for another link. */
  leave() {
    this.#over = true;
    clearTimeout(this.#timer);
    globalThis.removeEventListener?.("online", this.#retryNow);
    this.#connection?.close();
    this.#connection = null;
  }

  /** Seconds captured so far. */
  get captured() {
    return (this.#kept.end + this.#kept.held) / this.#rate;
  }

  /** Seconds of captured audio that wait to be sent, or may have to be sent again. */
  get unsent() {
    const end = this.#kept.end + this.#kept.held;
    if (this.#servedAt === 0) return (end - Math.min(this.#answered, this.#next)) / this.#rate;
    const waiting = (this.#connection?.buffered ?? 0) / this.#frameBytes;
    return (end - this.#next + waiting) / this.#rate;
  }

  /** Seconds that are lost because more than `keptS` had to wait. */
  get dropped() {
    return Math.max(0, this.#kept.start - this.#next) / this.#rate;
  }

  /** Seconds between what was captured and what the engine has been through, as far as known. */
  get behind() {
    return Math.max(0, ...this.#behind.values()) + this.unsent;
  }

  /** @param {Int16Array} pcm at the rate of `start`, its channels interleaved; at most a second */
  push(pcm) {
    if (this.#restored) return this.#kept.hold(pcm); // before the server has answered
    this.#kept.push(pcm);
    this.#pump();
  }

  /**
   * Those who read the session's captions get what people have made of a segment. For sessions that the
   * server stores, PATCH /v1/sessions does so.
   * @param {string} segment as events have it @param {number} words the first ones @param {string} text for these
   */
  correct(segment, words, text) {
    const session = `${this.#progress.name}/`;
    if (this.#over || !segment.startsWith(session)) return;
    const message = this.#corrections.put(Number(segment.slice(session.length)), words, text);
    if (this.#servedAt > 0 && !this.#stopped) this.#connection?.say(message);
  }

  /** Those who read the session's captions get a speaker's name. @param {string} session @param {object} named */
  name(session, named) {
    if (this.#serves(session)) this.#connection?.say({ type: "name", ...named });
  }

  /** The voice of a speaker, who agrees to that, is remembered. @param {string} session @param {object} named */
  remember(session, named) {
    if (this.#serves(session)) this.#connection?.say({ type: "remember", consent: true, ...named });
  }

  /** Whether the session is the one on this line, which takes messages. @param {string} session */
  #serves(session) {
    return !this.#over && session === this.#progress.name && this.#servedAt !== 0 && !this.#stopped;
  }

  /** No more audio comes: bring out the rest. */
  stop() {
    this.#stopping = true;
    this.#lostAt = performance.now();
    this.#pump();
    this.#hurry();
  }

  /** Ends at once, as though it had never begun. */
  abort() {
    this.#leave({ code: "aborted", message: "" });
  }

  /** Ends at once; what has not come is missing. */
  giveUp() {
    this.#leave({ code: this.#reason || "lost", message: "" });
  }

  /** @param {Failure} failure */
  #leave(failure) {
    this.#connection?.close();
    this.#connection = null;
    this.#end(failure);
  }

  // One connection after another.

  #connect() {
    // `from` is left out: of a gap the server need not be asked, it is in what `resumed` says.
    const { token, have, received } = this.#progress;
    const more = received.length > 0 && { received };
    const first =
      token === ""
        ? { ...this.#start, ...(this.#resumable && { resumable: true }) }
        : { type: "resume", token, have, ...more };
    this.#connection = new Connection(this.#url, this.#protocols, first, {
      message: (message) => this.#receive(message),
      closed: (failure) => this.#closed(failure),
    });
  }

  /** @param {any} message */
  #receive(message) {
    const { type } = message;
    this.#arrivedAt = performance.now();
    if (type === "error" && message.fatal) return this.#connection?.fail(message);
    if (type === "error" && this.#servedAt === 0) return this.#connection?.ends(message);
    const due = this.#progress.token === "" ? "ready" : "resumed";
    if ((this.#servedAt === 0 && type !== due) || !this.#progress.counts(message)) {
      return this.#connection?.fail({ code: "bad_server", message: "" });
    }
    if (type === "ready") return this.#ready(message);
    if (type === "resumed") return this.#resumed(message);
    this.#answered = this.#next;
    this.#expect();
    if (type === "ack") return this.#acknowledge(message);
    if (type === "suspended") return; // the close follows, and another server goes on
    this.#progressed = true;
    if (type === "error" && ENDINGS.includes(message.code)) {
      return this.#connection?.ends(message);
    }
    if (type === "lag") this.#behind.set(message.source ?? "", message.behind_s);
    this.#progress.follow(message);
    this.#listener.event?.(this.#progress.translate(message));
    if (type === "done") this.#done(message);
  }

  /** A new session. @param {any} message */
  #ready(message) {
    const resume = this.#progress.resumeAt(this.#answered);
    const sent = this.#next;
    // On a line that is too slow, the next one would begin with a buffer that is full again.
    const late = this.#reason === "overrun" ? this.#kept.middle : this.#kept.start;
    const from = Math.max(resume, late);
    this.#next = this.#arrived = from;
    this.#progress.begin(message.session, message.resume ?? "", from);
    this.#corrections.clear();
    const gap = {
      at: this.#progress.seconds(0),
      lost: (from - resume) / this.#rate,
      replayed: Math.max(0, sent - from) / this.#rate,
      code: this.#reason,
    };
    this.#serve();
    if (this.#sessions++ === 0) this.#listener.ready?.(message);
    else this.#listener.restarted?.(gap);
    this.#pump();
  }

  /** The same session goes on. @param {any} message */
  #resumed({ session, samples }) {
    const next = this.#progress.from + samples;
    if (this.#restored) this.#kept.skipTo(next); // what was captured last, it may not know
    if (session !== this.#progress.name || next > this.#kept.end) {
      return this.#connection?.fail({ code: "bad_server", message: "" });
    }
    this.#progressed = next > this.#arrived;
    this.#next = this.#arrived = next;
    this.#serve();
    if (next >= this.#kept.start) this.#listener.resumed?.();
    this.#pump();
  }

  #serve() {
    this.#restored = false;
    this.#kept.release();
    this.#servedAt = this.#flowed = performance.now();
    this.#answered = this.#next;
    if (this.#next >= this.#kept.start) this.#reason = "";
    for (const message of this.#corrections.all) this.#connection?.say(message);
    this.#expect();
  }

  /** Something has to come in time. */
  #expect() {
    const silent = this.#progress.token === "" ? 0 : this.#silentMs;
    this.#connection?.expect(this.#stopped ? DONE_MS : silent);
  }

  /** @param {{samples: number, stored?: number}} message every word before is in a segment */
  #acknowledge({ samples, stored }) {
    const at = this.#progress.from + samples;
    this.#progress.settle(at);
    this.#progress.stored(stored);
    this.#kept.drop(at);
  }

  /** The session is over, after so many seconds of audio. @param {{duration: number}} message */
  #done({ duration }) {
    const end = this.#progress.from + Math.round(duration * this.#rate);
    const whole = this.#stopping && this.#stopped && end + ROUNDED_S * this.#rate >= this.#kept.end;
    if (whole) return this.#connection?.fail(null);
    this.#progress.finish(Math.min(end, this.#kept.end));
    this.#next = this.#answered = this.#progress.settled;
    this.#connection?.end();
  }

  #pump() {
    const connection = this.#connection;
    if (!connection?.open || this.#servedAt === 0 || this.#stopped) return;
    if (this.#next < this.#kept.start) return this.#finish("overrun");
    while (this.#next < this.#kept.end && connection.buffered < this.#frameBytes * FULL_S * this.#rate) {
      const pcm = this.#kept.read(this.#next, BLOCK_S * this.#rate);
      connection.send(pcm);
      this.#next += (2 * pcm.length) / this.#frameBytes;
      this.#flowed = performance.now();
    }
    if (this.#next < this.#kept.end) {
      if (performance.now() - this.#flowed > STALL_MS) {
        connection.fail({ code: "lost", message: "" });
      } else this.#later(50, () => this.#pump());
    } else if (this.#stopping) this.#finish("");
  }

  /**
   * The session has had all its audio. Where some was dropped that it has not had, it ends before
   * the gap, and another one begins behind it.
   * @param {string} reason
   */
  #finish(reason) {
    this.#reason ||= reason;
    this.#stopped = true;
    this.#connection?.say({ type: "stop" });
    this.#expect();
  }

  /** @param {Failure | null} failure */
  #closed(failure) {
    const now = performance.now();
    const served = this.#servedAt > 0;
    const refused = !served && failure?.fatal;
    this.#connection = null;
    this.#behind.clear();
    this.#stopped = false;
    if (served) {
      this.#lostAt = now;
      this.#fruitless = this.#progressed ? 0 : this.#fruitless + 1;
      if (failure?.code === "lost" || now - this.#servedAt > HEALTHY_MS) this.#tries = 0;
    }
    this.#servedAt = 0;
    this.#progressed = false;
    if (failure === null) return this.#end(null);
    if (refused && this.#resumable && this.#progress.token === "" && NOT_RESUMABLE.includes(failure.code)) {
      this.#resumable = false;
      return this.#connect();
    }
    if (!this.#retries(failure)) return this.#end(failure);
    if (failure.fatal && !(served ? ["slow_client"] : REFUSALS).includes(failure.code)) {
      this.#progress.token = "";
    }
    this.#reason ||= failure.code;
    const delay = Math.min(LAST_RETRY_MS, FIRST_RETRY_MS * 2 ** this.#tries++);
    const pause = GONE.includes(failure.code) ? 0 : delay * (0.5 + Math.random() / 2);
    this.#later(pause, () => this.#connect());
    this.#listener.waiting?.(failure);
  }

  /** Whether there is another connection after this failure. @param {Failure} failure */
  #retries({ code }) {
    if (this.#sessions === 0 || this.#tries >= (RETRIES.get(code) ?? 0)) return false;
    if (!this.#stopping) return true;
    const waited = performance.now() - this.#lostAt;
    return waited < this.#giveUpMs && this.#fruitless < FRUITLESS;
  }

  /** @param {number} ms @param {() => void} act */
  #later(ms, act) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(act, ms);
  }

  #hurry() {
    if (this.#connection === null && !this.#over) this.#later(0, () => this.#connect());
  }

  /** @param {Failure | null} failure */
  #end(failure) {
    if (this.#over) return;
    this.#over = true;
    clearTimeout(this.#timer);
    globalThis.removeEventListener?.("online", this.#retryNow);
    const missing = failure ? (this.#kept.end - this.#progress.resumeAt(this.#answered)) / this.#rate : 0;
    this.#listener.ended?.(failure, missing);
  }
}
