/** One recording: the sound source, the link to the server and the state the reader sees. */
import { Capture, CaptureError } from "./capture.js";
import { Link } from "./link.js";
import { livePass, liveUrl } from "./live.js";

/**
 * @typedef {import("./settings.js").Settings} Settings
 * @typedef {"idle" | "asking" | "connecting" | "listening" | "reconnecting" | "finishing"
 *   | "resending" | "uploading" | "stopped" | "error"} State `resending`: finishing, without a line
 * @typedef {object} RecordingListener
 * @property {(state: State) => void} state
 * @property {(peak: number) => void} level
 * @property {(message: any) => void} ready
 * @property {(message: any) => void} event
 * @property {(failure: import("./link.js").Failure) => void} waiting
 * @property {() => void} resumed
 * @property {(gap: import("./link.js").Gap) => void} restarted
 * @property {(kind: string) => void} unheard no sound, or no more: a kind of CaptureError
 * @property {(failure: import("./link.js").Failure | null, missing: number) => void} ended
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
  #connected = false;

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
        this.#listener.restarted(gap);
      },
      ended: this.#ended.bind(this),
    };
    const options = { origin: this.#origin, protocols: livePass };
    const url = liveUrl(this.#settings.captions);
    this.#link = new Link(url, wanted(this.#settings), listener, options);
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

/** @param {Settings} settings */
function wanted({ pauseMs, model, language, translate, store }) {
  return {
    vad: { min_silence_ms: pauseMs },
    ...(model && { model }),
    ...(language && { language }),
    ...(translate && { task: "translate" }),
    ...(!store && { store }),
  };
}
