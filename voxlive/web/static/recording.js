/** One recording: the sound source, the link to the server and the state the reader sees. */
import { Capture, CaptureError } from "./capture.js";
import { Link } from "./link.js";
import { liveUrl } from "./live.js";

/**
 * @typedef {import("./settings.js").Settings} Settings
 * @typedef {"idle" | "asking" | "connecting" | "listening" | "reconnecting" | "finishing"
 *   | "uploading" | "stopped" | "error"} State
 * @typedef {object} RecordingListener
 * @property {(state: State) => void} state
 * @property {(peak: number) => void} level
 * @property {(message: any) => void} ready
 * @property {(message: any) => void} event
 * @property {(failure: import("./live.js").Failure) => void} waiting
 * @property {(gap: import("./link.js").Gap) => void} resumed
 * @property {(kind: string) => void} unheard no sound, or no more: a kind of CaptureError
 * @property {(failure: import("./live.js").Failure | null, missing: number) => void} ended
 */

export class Recording {
  #settings;
  #origin;
  #listener;
  /** @type {Capture | null} */
  #capture = null;
  /** @type {Link | null} */
  #link = null;
  #over = false;
  #finishing = false;

  /**
   * @param {Settings} settings
   * @param {number} origin seconds in the transcript at which it begins
   * @param {RecordingListener} listener
   */
  constructor(settings, origin, listener) {
    this.#settings = settings;
    this.#origin = origin;
    this.#listener = listener;
  }

  /** Seconds recorded so far. */
  get seconds() {
    return this.#link?.captured ?? 0;
  }

  /** Seconds the transcript is behind the sound. */
  get behind() {
    return this.#link?.behind ?? 0;
  }

  /** Call it in the click itself. */
  async start() {
    try {
      this.#capture = new Capture({
        audio: (pcm, peak) => this.#heard(pcm, peak),
        ended: (kind) => this.#lose(kind),
      });
      this.#listener.state("asking");
      await this.#capture.open(this.#settings);
    } catch (error) {
      if (!(error instanceof CaptureError)) throw error;
      if (!this.#over) this.#fail(error.kind);
      return;
    }
    if (this.#over) return void this.#capture.stop();
    this.#listener.state("connecting");
    this.#link = new Link(liveUrl(this.#settings.captions), wanted(this.#settings), this.#origin, {
      ready: (message) => {
        this.#show("listening");
        this.#listener.ready(message);
      },
      event: (message) => this.#listener.event(message),
      waiting: (failure) => {
        this.#show("reconnecting");
        this.#listener.waiting(failure);
      },
      resumed: (gap) => {
        this.#show("listening");
        this.#listener.resumed(gap);
      },
      ended: (failure, missing) => this.#ended(failure, missing),
    });
  }

  /** Ends the sound, then waits for the last words. */
  async stop() {
    if (this.#finishing || this.#link === null) return;
    this.#finishing = true;
    this.#listener.state("finishing");
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

  /** Goes on with another microphone. @param {Settings} settings @throws {CaptureError} */
  async use(settings) {
    this.#settings = settings;
    await this.#capture?.use(settings);
  }

  /** @param {Int16Array} pcm @param {number} peak */
  #heard(pcm, peak) {
    this.#link?.push(pcm);
    if (!this.#finishing && !this.#over) this.#listener.level(peak);
  }

  /** @param {State} state */
  #show(state) {
    if (!this.#finishing) this.#listener.state(state);
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

  /** @param {import("./live.js").Failure | null} failure @param {number} missing */
  #ended(failure, missing) {
    this.#over = true;
    void this.#capture?.stop();
    this.#listener.ended(failure, missing);
  }
}

/** @param {Settings} settings */
function wanted({ pauseMs, model, language, translate }) {
  return {
    vad: { min_silence_ms: pauseMs },
    ...(model && { model }),
    ...(language && { language }),
    ...(translate && { task: "translate" }),
  };
}
