/** Hears the session from a moment on, and says which moment is heard. */
import { byId, clock } from "./dom.js";
import { say } from "./words.js";

/**
 * @typedef {{url: string, start: number, end: number}} Piece sound whose beginning is at `start` of the
 *   transcript; from `end` on there is another one
 * @typedef {object} PlayerListener
 * @property {(t: number) => Promise<Piece | null>} piece the sound of a moment, null where there is none
 * @property {(t: number | null) => void} moved what is heard now; null: nothing
 * @property {() => void} missing there is no sound of this moment
 * @property {() => number} length of all, in seconds
 */

export class Player {
  #audio = new Audio();
  #bar = byId("player");
  #toggle = byId("player-toggle");
  #place = byId("player-place");
  #time = byId("player-time");
  #rate = byId("player-rate");
  #listener;
  /** @type {Piece | null} */
  #piece = null;
  #asked = 0;
  #frame = 0;

  /** @param {PlayerListener} listener */
  constructor(listener) {
    this.#listener = listener;
    this.#toggle.addEventListener("click", () => this.toggle());
    byId("player-close").addEventListener("click", () => this.close());
    this.#place.addEventListener("change", () => void this.from(this.#place.valueAsNumber));
    this.#rate.addEventListener("change", () => (this.#audio.playbackRate = Number(this.#rate.value)));
    for (const event of ["play", "pause"]) this.#audio.addEventListener(event, () => this.#show());
    this.#audio.addEventListener("ended", () => void this.#next());
    this.#audio.addEventListener("error", () => this.#fail());
  }

  /** Whether it is heard now. */
  get playing() {
    return !this.#audio.paused;
  }

  /** Whether there is anything to go on with. */
  get open() {
    return !this.#bar.hidden;
  }

  /** The moment that is heard. */
  get at() {
    return (this.#piece?.start ?? 0) + this.#audio.currentTime;
  }

  /** Hears it from there. @param {number} t @param {boolean} [goesOn] what was heard: it may be at its end */
  async from(t, goesOn = false) {
    const asked = ++this.#asked;
    const known = this.#piece !== null && this.#piece.start <= t && t < this.#piece.end;
    const piece = known ? this.#piece : await this.#listener.piece(t);
    if (asked !== this.#asked) return;
    if (piece === null) return goesOn ? this.pause() : this.#listener.missing();
    if (piece !== this.#piece) {
      this.#release();
      this.#piece = piece;
      this.#audio.src = piece.url;
    }
    this.#bar.hidden = false;
    this.#audio.currentTime = Math.max(0, t - piece.start);
    this.#audio.playbackRate = Number(this.#rate.value);
    await this.#play();
  }

  toggle() {
    if (this.playing) this.#audio.pause();
    else void this.#play();
  }

  pause() {
    this.#audio.pause();
  }

  close() {
    this.#asked += 1;
    this.#audio.pause();
    this.#audio.removeAttribute("src");
    this.#audio.load();
    this.#release();
    this.#bar.hidden = true;
    this.#listener.moved(null);
  }

  async #play() {
    try {
      await this.#audio.play();
    } catch (error) {
      // Another moment was asked for, or it was closed; what cannot be played is an event.
      if (!(error instanceof DOMException)) throw error;
    }
  }

  async #next() {
    const end = this.#piece?.end ?? Infinity;
    if (end < this.#listener.length()) await this.from(end, true);
    else this.pause();
  }

  #fail() {
    if (this.#piece === null) return;
    this.close();
    this.#listener.missing();
  }

  #release() {
    if (this.#piece?.url.startsWith("blob:")) URL.revokeObjectURL(this.#piece.url);
    this.#piece = null;
  }

  #show() {
    const { playing } = this;
    this.#bar.toggleAttribute("data-playing", playing);
    this.#toggle.setAttribute("aria-label", say(playing ? "player.pause" : "player.play"));
    cancelAnimationFrame(this.#frame);
    if (playing) this.#follow();
  }

  #follow() {
    const { at } = this;
    const text = clock(at);
    if (this.#time.textContent !== text) {
      this.#time.textContent = text;
      this.#place.max = String(Math.ceil(this.#listener.length()));
      this.#place.value = String(Math.floor(at));
      this.#place.setAttribute("aria-valuetext", text);
    }
    this.#listener.moved(at);
    if (this.#piece && at >= this.#piece.end) void this.#next();
    else this.#frame = requestAnimationFrame(() => this.#follow());
  }
}
