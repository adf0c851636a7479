/**
 * Caption mode: the newest lines alone, large, over the whole screen. The last line stands fixed at
 * the bottom; lines move up by whole lines, so nothing creeps.
 */
import { byId } from "./dom.js";
import { save } from "./settings.js";

const SHOWN_CHARS = 1200; // more than five lines of the smallest size hold
const CONTROLS_MS = 2500; // without a movement, until they go

/**
 * @typedef {import("./settings.js").Settings} Settings
 * @typedef {import("./transcript.js").Transcript} Transcript
 */

export class Stage {
  #root = byId("stage");
  #committed = byId("stage-words");
  #draft = byId("stage-draft");
  #settings;
  #current;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** @type {HTMLElement | null} */
  #opener = null;

  /** @param {Settings} settings @param {() => Transcript} current */
  constructor(settings, current) {
    this.#settings = settings;
    this.#current = current;
    byId("open-stage").addEventListener("click", () => this.open());
    byId("stage-close").addEventListener("click", () => this.close());
    byId("stage-form").addEventListener("input", () => this.#take());
    for (const moved of ["pointermove", "pointerdown", "focusin"]) {
      this.#root.addEventListener(moved, () => this.#showControls());
    }
    this.#root.addEventListener("cancel", (/** @type {Event} */ event) => {
      event.preventDefault();
      this.close();
    });
    document.addEventListener("fullscreenchange", () => {
      if (document.fullscreenElement === null && this.shown) this.close();
    });
    this.#dress();
  }

  get shown() {
    return this.#root.open;
  }

  open() {
    if (this.shown) return;
    this.#opener = /** @type {HTMLElement | null} */ (document.activeElement);
    this.#root.showModal();
    this.#root.focus();
    this.render();
    this.#showControls();
    // Where the browser or a frame forbids it, the window is filled all the same.
    this.#root.requestFullscreen?.().catch(() => {});
  }

  close() {
    clearTimeout(this.#timer);
    this.#root.close();
    if (document.fullscreenElement) void document.exitFullscreen();
    this.#opener?.focus();
  }

  /** The newest words. */
  render() {
    if (!this.shown) return;
    const { items, draft } = this.#current();
    let text = "";
    for (let at = items.length - 1; at >= 0 && text.length < SHOWN_CHARS; at--) {
      const item = items[at];
      if (item.kind === "paragraph") text = text === "" ? item.text : `${item.text} ${text}`;
    }
    const cut = text.length > SHOWN_CHARS ? text.indexOf(" ", text.length - SHOWN_CHARS) + 1 : 0;
    text = text.slice(cut);
    const guess = draft?.text ?? "";
    if (this.#committed.textContent !== text) this.#committed.textContent = text;
    const shown = text === "" ? guess.trimStart() : draft?.apart ? ` ${guess.trimStart()}` : guess;
    if (this.#draft.textContent !== shown) this.#draft.textContent = shown;
  }

  #take() {
    const form = new FormData(byId("stage-form"));
    this.#settings.stageSize = Number(form.get("stageSize"));
    this.#settings.stageLines = Number(form.get("stageLines"));
    this.#settings.stageWidth = Number(form.get("stageWidth"));
    this.#settings.stageColours = String(form.get("stageColours"));
    save(this.#settings);
    this.#dress();
    this.#showControls();
  }

  #dress() {
    const values = /** @type {Record<string, unknown>} */ (/** @type {unknown} */ (this.#settings));
    for (const field of byId("stage-form").elements) {
      if (field.name) field.value = String(values[field.name]);
    }
    const { stageSize, stageLines, stageWidth, stageColours } = this.#settings;
    const { style } = this.#root;
    style.setProperty("--stage-size", `${stageSize}px`);
    style.setProperty("--stage-lines", String(stageLines));
    style.setProperty("--stage-width", `${stageWidth}%`);
    this.#root.dataset.colours = stageColours;
    byId("stage-size-text").textContent = `${stageSize} px`;
  }

  #showControls() {
    this.#root.toggleAttribute("data-controls", true);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      const used = this.#root.querySelector(".stage-controls :focus-visible");
      if (!used) this.#root.toggleAttribute("data-controls", false);
    }, CONTROLS_MS);
  }
}
