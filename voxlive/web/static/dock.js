/** The dock: state in words, the one button, and the level of the sound. */
import { byId, clock, hide } from "./dom.js";
import { number, say } from "./words.js";

const FLOOR_DB = -60; // the meter's left end
const FALL = 0.85; // of the meter, per message of 40 ms
const CLIPPED = 0.99;
const CLIP_SHOWN_MS = 1500;
const SILENT = 0.0005;
const SILENT_MS = 5000;
const LATE_S = 3; // worth saying so

/** @typedef {import("./recording.js").State} State */

/** @type {Record<State, {button: import("./words.js").Key, toggle: "start" | "stop"}>} */
const STATES = {
  idle: { button: "button.start", toggle: "start" },
  asking: { button: "button.cancel", toggle: "stop" },
  connecting: { button: "button.cancel", toggle: "stop" },
  listening: { button: "button.stop", toggle: "stop" },
  reconnecting: { button: "button.stop", toggle: "stop" },
  finishing: { button: "button.finishing", toggle: "stop" },
  resending: { button: "button.give-up", toggle: "stop" },
  uploading: { button: "button.start", toggle: "start" },
  stopped: { button: "button.start", toggle: "start" },
  error: { button: "button.start", toggle: "start" },
};

export class Dock {
  #status = byId("status");
  #detail = byId("detail");
  #toggle = byId("toggle");
  #fill = byId("meter-fill");
  #meter = byId("meter");
  #clip = byId("clip");
  #shown = 0;
  #clippedAt = -Infinity;
  #heardAt = 0;
  #still = false; // paused or muted

  /** @param {State} state */
  show(state) {
    const { button, toggle } = STATES[state];
    document.body.dataset.state = state;
    document.body.dataset.toggle = toggle;
    this.#status.textContent = say(`status.${state}`);
    byId("toggle-text").textContent = say(button);
    this.#toggle.disabled = state === "finishing" || state === "uploading";
    if (state !== "listening") this.late(false);
    if (state === "listening") this.#heardAt = performance.now();
    if (toggle === "start" || state === "finishing" || state === "resending") this.level(0, true);
  }

  /** What is done with the sound. @param {boolean} paused @param {boolean} muted */
  sound(paused, muted) {
    for (const [id, pressed, on, off] of /** @type {const} */ ([
      ["pause-sound", paused, "pause.on", "pause.off"],
      ["mute", muted, "mute.on", "mute.off"],
    ])) {
      byId(id).setAttribute("aria-pressed", String(pressed));
      byId(id).querySelector("span").textContent = say(pressed ? on : off);
    }
    document.body.toggleAttribute("data-paused", paused);
    if (document.body.dataset.state === "listening") {
      this.#status.textContent = say(paused ? "state.paused" : "status.listening");
    }
    if (paused || muted) this.level(0, true);
    this.#heardAt = performance.now();
    this.#still = paused || muted;
  }

  /** Whether the server has sent nothing for long. @param {boolean} late */
  late(late) {
    document.body.toggleAttribute("data-late", late);
  }

  /** The line beside the state. @param {string} text */
  detail(text) {
    if (this.#detail.textContent !== text) this.#detail.textContent = text;
  }

  /**
   * While listening: how long, how far behind, and what looks wrong.
   * @param {number} seconds
   * @param {number} behind
   * @param {string} remark
   * @param {string} language where there is nothing to remark
   */
  progress(seconds, behind, remark, language) {
    const silent = !this.#still && performance.now() - this.#heardAt > SILENT_MS;
    const lag = say("lag.behind", { seconds: number(behind, 1) });
    const parts = [
      clock(seconds),
      behind > LATE_S ? say("lag.late", { lag }) : lag,
      remark || (silent ? say("level.silent") : language),
    ];
    this.detail(parts.filter(Boolean).join(" · "));
  }

  /** @param {number} peak 0 to 1 @param {boolean} [reset] */
  level(peak, reset = false) {
    const now = performance.now();
    const loud = Math.max(0, 1 - (20 * Math.log10(Math.max(peak, 1e-6))) / FLOOR_DB);
    this.#shown = reset ? 0 : Math.max(loud, this.#shown * FALL);
    this.#fill.style.transform = `scaleX(${this.#shown.toFixed(3)})`;
    if (peak > SILENT) this.#heardAt = now;
    if (peak >= CLIPPED) this.#clippedAt = now;
    const clipped = !reset && now - this.#clippedAt < CLIP_SHOWN_MS;
    hide(this.#clip, !clipped);
    this.#meter.toggleAttribute("data-clipped", clipped);
  }
}
