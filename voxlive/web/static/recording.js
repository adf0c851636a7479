/** One recording: the sound source, the link to the server and the state the reader sees. */
import { beside, Capture, CaptureError } from "./capture.js";
import { Demo } from "./demo.js";
import { Link } from "./link.js";
import { livePass, liveUrl } from "./live.js";
import { linesOf } from "./settings.js";
import { say } from "./words.js";

/**
 * @typedef {import("./settings.js").Settings} Settings
 * @typedef {"idle" | "asking" | "connecting" | "listening" | "reconnecting" | "finishing"
 *   | "resending" | "uploading" | "stopped" | "error"} State `resending`: finishing, without a line
 * @typedef {object} RecordingListener
 * @property {(state: State) => void} state
 * @property {(peak: number) => void} level
 * @property {(pcm: Int16Array, channels: number, at: number) => void} pcm what is recorded, its channels
 *   interleaved, from this sample of the transcript on
 * @property {(message: any) => void} ready
 * @property {(message: any) => void} event
 * @property {(failure: import("./link.js").Failure) => void} waiting
 * @property {() => void} resumed
 * @property {(gap: import("./link.js").Gap, session: string) => void} restarted
 * @property {(kind: string) => void} unheard no sound, or no more: a kind of CaptureError
 * @property {(shared: boolean) => void} shared whether sound is shared beside the microphone
 * @property {(failure: import("./link.js").Failure | null, missing: number) => void} ended
 * @typedef {"short" | "muted" | "shared" | "silent" | "quiet" | "speech"} Wordless why a recording has no
 *   words, as its sound tells; `speech`: there was sound
 *
 * @typedef {{link: import("./link.js").LinkState, sound: Int16Array[]}} Interrupted a recording of
 *   another page, or of this one before it was loaded again
 */

/** The source that is no microphone. */
export const DEMO = "demo";
const RATE = 16_000;
const SHORT_S = 1; // too short for a word
const SILENT = 0.0005; // amplitudes: no microphone that works is as still; speech is louder
const QUIET = 0.02;
const SILENT_S = 10; // without any message the line is taken for dead

export class Recording {
  #settings;
  #origin;
  #listener;
  /** @type {Capture | Demo | null} */
  #capture = null;
  /** @type {Link | null} */
  #link = null;
  #over = false;
  #finishing = false;
  #connected = false;
  #interrupted;
  /** Names of its sources, none where there is one alone. @type {string[]} */
  #sources;
  #loudest = 0; // amplitude of the sound that came, up to 1
  #muted = 0; // samples
  /** No sound is taken, and its clock stands still. */
  paused = false;
  /** Silence is taken in place of the microphone's sound. */
  muted = false;

  /**
   * @param {Settings} settings
   * @param {number} origin seconds in the transcript at which it begins
   * @param {RecordingListener} listener
   * @param {Interrupted | null} [interrupted] what it goes on with
   */
  constructor(settings, origin, listener, interrupted = null) {
    this.#settings = settings;
    this.#origin = origin;
    this.#listener = listener;
    this.#interrupted = interrupted;
    const together = settings.source !== DEMO && beside(settings);
    this.#sources = together ? [say("source.microphone"), say("source.shared")] : [];
  }

  /** Whether its sound is kept in this browser too. */
  get keepsSound() {
    return this.#settings.keepSound;
  }

  /** How many sources it has, each of which takes a place of the server. */
  get sources() {
    return Math.max(1, this.#sources.length);
  }

  /** What another page would go on from. @returns {import("./store.js").Unfinished | null} */
  get unfinished() {
    if (this.#link === null || this.#over || this.#link.state.name === "") return null;
    return { link: this.#link.state, origin: this.#origin, settings: this.#lasting };
  }

  /** How many sources it has, it has for good. */
  get #lasting() {
    return { ...this.#settings, together: this.#sources.length > 0 };
  }

  /** The sound from a position on that the server has not had, while there is more than usual. */
  get soundFrom() {
    const link = this.#link;
    if (link === null || (this.#connected && link.unsent < 1)) return undefined;
    return (/** @type {number} */ from) => link.soundFrom(from);
  }

  /** The name under which others read along. */
  get captions() {
    return this.#settings.captions;
  }

  /** Seconds since the server has sent anything. */
  get quiet() {
    return this.#link?.quiet ?? 0;
  }

  /** Seconds recorded so far. */
  get seconds() {
    return this.#link?.captured ?? 0;
  }

  /** Why it may have brought no words; null where it did not begin, or plays a clip. @returns {Wordless | null} */
  get wordless() {
    const { source } = this.#settings;
    if (this.#link === null || source === DEMO) return null;
    if (this.seconds < SHORT_S) return "short";
    if (this.#muted > (this.seconds * RATE) / 2) return "muted";
    if (this.#loudest >= QUIET) return "speech";
    if (source === "display") return "shared";
    return this.#loudest < SILENT ? "silent" : "quiet";
  }

  /** Seconds the transcript is behind the sound. */
  get behind() {
    return this.#link?.behind ?? 0;
  }

  /** Seconds of sound that wait to be sent. */
  get unsent() {
    return this.#link?.unsent ?? 0;
  }

  /** Seconds of sound that are lost, because too much of it had to wait. */
  get dropped() {
    return this.#link?.dropped ?? 0;
  }

  /** Call it in the click itself. */
  async start() {
    try {
      const Source = this.#settings.source === DEMO ? Demo : Capture;
      this.#capture = new Source({
        audio: (pcm, peak) => this.#heard(pcm, peak),
        ended: (kind) => (kind === "played" ? void this.stop() : this.#lose(kind)),
        alone: (kind) => {
          this.#listener.shared(false);
          this.#listener.unheard(kind);
        },
      });
      this.#listener.state("asking");
      await this.#capture.open(this.#settings, this.#interrupted !== null);
    } catch (error) {
      if (!(error instanceof CaptureError)) throw error;
      if (!this.#over) this.#fail(error.kind);
      return;
    }
    if (this.#over) return void this.#capture.stop();
    this.#listener.state("connecting");
    const listener = {
      ready: (/** @type {any} */ message) => {
        this.#show(true);
        this.#listener.ready(message);
      },
      event: this.#listener.event,
      waiting: (/** @type {import("./link.js").Failure} */ failure) => {
        this.#show(false);
        this.#listener.waiting(failure);
      },
      resumed: () => {
        this.#show(true);
        this.#listener.resumed();
      },
      restarted: (/** @type {import("./link.js").Gap} */ gap) => {
        this.#show(true);
        this.#listener.restarted(gap, this.#link?.state.name ?? "");
      },
      ended: this.#ended.bind(this),
    };
    const { link: state, sound } = this.#interrupted ?? {};
    const origin = this.#origin;
    const options = { origin, protocols: livePass, silentS: SILENT_S, state, sound };
    const url = liveUrl(this.#settings.captions);
    this.#link = new Link(url, wanted(this.#settings, this.#sources), listener, options);
  }

  /** Ends the sound, then waits for the last words. */
  async stop() {
    if (this.#finishing || this.#link === null) return;
    this.#finishing = true;
    this.#show(this.#connected);
    await this.#capture?.stop();
    this.#link.stop();
  }

  /** Gives up before anything was said. */
  cancel() {
    if (this.#link) this.#link.abort();
    else {
      this.#over = true;
      this.#listener.ended(null, 0);
    }
  }

  /** Ends without the words that have not come. */
  giveUp() {
    this.#link?.giveUp();
  }

  /** Those who read along get what a segment of the server's session has become. @param {import("./segment.js").Segment} segment */
  correct({ key, words, text }) {
    this.#link?.correct(key, words.length, text);
  }

  /** Those who read along get what a speaker is called. @param {string} session @param {object} named */
  name(session, named) {
    this.#link?.name(session, named);
  }

  /** The voice of a speaker, who agrees to that, is remembered. @param {string} session @param {object} named */
  remember(session, named) {
    this.#link?.remember(session, named);
  }

  /** A time of the transcript in the server's session. @param {number} seconds */
  placeOf(seconds) {
    const state = this.#link?.state;
    if (!state?.name) return null;
    return { session: state.name, at: Math.max(0, seconds - this.#origin - state.from / RATE) };
  }

  /** Leaves the session to another page; nothing of it ends. */
  leave() {
    this.#over = true;
    this.#link?.leave();
    void this.#capture?.stop();
  }

  /** Goes on with another microphone. @param {Settings} settings @throws {CaptureError} */
  async use(settings) {
    this.#settings = settings;
    await this.#capture?.use(settings);
  }

  /** Shares sound beside the microphone once more. @throws {CaptureError} */
  async share() {
    if (this.#capture instanceof Capture) await this.#capture.share();
    this.#listener.shared(true);
  }

  /** @param {Int16Array} pcm @param {number} peak */
  #heard(pcm, peak) {
    if (this.paused && !this.#finishing) return;
    this.#loudest = Math.max(this.#loudest, peakOf(pcm));
    if (this.muted) this.#muted += pcm.length / this.sources;
    // The microphone's are the first channel's samples.
    if (this.muted) for (let at = 0; at < pcm.length; at += this.sources) pcm[at] = 0;
    if (this.#link) {
      const at = Math.round((this.#origin + this.#link.captured) * RATE);
      this.#link.push(pcm);
      this.#listener.pcm(pcm, this.sources, at);
    }
    if (!this.#finishing && !this.#over) this.#listener.level(this.muted ? 0 : peak);
  }

  /** @param {boolean} connected */
  #show(connected) {
    this.#connected = connected;
    if (this.#finishing) this.#listener.state(connected ? "finishing" : "resending");
    else this.#listener.state(connected ? "listening" : "reconnecting");
  }

  /** @param {string} kind */
  #lose(kind) {
    this.#listener.unheard(kind);
    void this.stop();
  }

  /** @param {string} kind */
  #fail(kind) {
    this.#over = true;
    this.#listener.unheard(kind);
    this.#listener.ended({ code: "capture", message: "" }, 0);
  }

  /** @param {import("./link.js").Failure | null} failure @param {number} missing */
  #ended(failure, missing) {
    this.#over = true;
    void this.#capture?.stop();
    this.#listener.ended(failure, missing);
  }
}

/** @param {Int16Array} pcm */
function peakOf(pcm) {
  let peak = 0;
  for (const sample of pcm) peak = Math.max(peak, Math.abs(sample));
  return peak / 32_768;
}

/** @param {Settings} settings @param {string[]} sources */
function wanted({ pauseMs, model, language, translate, store, keepAudio, speed, ...own }, sources) {
  const vocabulary = linesOf(own.terms);
  const pairs = linesOf(own.replacements).map((line) => line.split("=", 2).map((part) => part.trim()));
  const replacements = Object.fromEntries(pairs.filter(([heard, text]) => heard && text !== undefined));
  return {
    ...(sources.length > 0 && { channels: sources.length, sources }),
    ...(pauseMs && { vad: { min_silence_ms: pauseMs } }),
    ...(own.diarize && { diarize: !own.profiles || { profiles: true } }),
    ...(model && { model }),
    ...(language && { language }),
    ...(translate && { task: "translate" }),
    ...(vocabulary.length > 0 && { vocabulary }),
    ...(Object.keys(replacements).length > 0 && { replacements }),
    ...(speed && (Number(speed) > 0 ? { delay_ms: Number(speed) } : { commit: speed })),
    ...(store ? keepAudio && { keep_audio: true } : { store }),
  };
}
