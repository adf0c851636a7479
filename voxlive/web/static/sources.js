/** The picker of the microphone, or of sound that is shared, also while one records. */
import { canShare, canShareBeside, CaptureError, microphones } from "./capture.js";
import { byId, make } from "./dom.js";
import { captureAdvice } from "./messages.js";
import { save } from "./settings.js";
import { say } from "./words.js";

/** @typedef {import("./recording.js").Recording} Recording */

export class Sources {
  #settings;
  #recording;
  #notice;
  #picker = byId("source");

  /**
   * @param {import("./settings.js").Settings} settings
   * @param {() => Recording | null} recording that is under way
   * @param {import("./panels.js").Notice} notice
   */
  constructor(settings, recording, notice) {
    this.#settings = settings;
    this.#recording = recording;
    this.#notice = notice;
    this.#picker.addEventListener("change", () => void this.#choose());
    byId("share-again").addEventListener("click", () => void this.#shareAgain());
    navigator.mediaDevices?.addEventListener("devicechange", () => void this.list());
  }

  /** Fills the picker. */
  async list() {
    const chosen = this.#settings.source;
    const options = [option("", say("source.default"))];
    for (const [index, { deviceId, label }] of (await microphones()).entries()) {
      if (deviceId) options.push(option(deviceId, label || say("source.numbered", { number: index + 1 })));
    }
    if (canShare()) options.push(option("display", say("source.display")));
    if (!options.some(({ value }) => value === chosen)) {
      options.push(option(chosen, say("source.gone")));
    }
    this.#picker.replaceChildren(...options);
    this.#picker.value = chosen;
    this.together();
  }

  /** Offers shared sound beside a microphone. */
  together() {
    const row = byId("together");
    row.hidden = this.#settings.source === "display" || !canShareBeside();
    byId("together-note").hidden = row.hidden || !row.querySelector("input").checked;
  }

  /** Whether sound is shared beside the microphone; false: it is no more. @param {boolean} shared */
  shared(shared) {
    byId("share-again").hidden = shared;
  }

  async #choose() {
    this.#settings.source = this.#picker.value;
    save(this.#settings);
    this.together();
    await this.#try((recording) => recording.use(this.#settings));
  }

  async #shareAgain() {
    await this.#try(async (recording) => {
      await recording.share();
      this.#notice.hide();
    });
  }

  /** @param {(recording: Recording) => Promise<void>} use */
  async #try(use) {
    try {
      const recording = this.#recording();
      if (recording) await use(recording);
    } catch (error) {
      if (!(error instanceof CaptureError)) throw error;
      this.#notice.show(captureAdvice(error.kind));
    }
  }
}

/** @param {string} value @param {string} label */
function option(value, label) {
  const element = /** @type {HTMLOptionElement} */ (make("option", "", label));
  element.value = value;
  return element;
}
