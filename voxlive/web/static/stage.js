/** Caption mode: the newest lines alone, large, over the whole screen or in a small window. */
import { CaptionLines, dressCaptions } from "./captionlines.js";
import { byId } from "./dom.js";
import { CaptionWindow } from "./captionwindow.js";
import { save } from "./settings.js";

const CONTROLS_MS = 2500; // without a movement, until they go

/**
 * @typedef {import("./settings.js").Settings} Settings
 * @typedef {import("./transcript.js").Transcript} Transcript
 */

export class Stage {
  #root = byId("stage");
  #form = byId("stage-form");
  #announcer = byId("announcer");
  #lines = new CaptionLines(byId("stage-lines"));
  #settings;
  #current;
  #refused;
  #window;
  #scheduled = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** @type {HTMLElement | null} */
  #opener = null;

  /**
   * @param {Settings} settings
   * @param {() => Transcript} current
   * @param {() => void} refused there is no small window
   */
  constructor(settings, current, refused) {
    this.#settings = settings;
    this.#current = current;
    this.#refused = refused;
    this.#window = new CaptionWindow(settings, current);
    byId("open-stage").addEventListener("click", () => this.open());
    byId("stage-close").addEventListener("click", () => this.close());
    byId("stage-window").addEventListener("click", () => this.float());
    byId("stage-window").hidden = !CaptionWindow.possible;
    this.#form.addEventListener("input", (/** @type {any} */ { target }) => this.#take(target));
    this.#form.addEventListener("submit", (/** @type {Event} */ event) => event.preventDefault());
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
    addEventListener("resize", () => this.render());
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
    // What lies outside is not read out.
    this.#root.append(this.#announcer);
    this.#lines.reset();
    this.#lines.show(this.#current());
    this.#showControls();
    // Where the browser or a frame forbids it, the window is filled all the same.
    this.#root.requestFullscreen?.().catch(() => {});
  }

  close() {
    clearTimeout(this.#timer);
    document.body.append(this.#announcer);
    this.#root.close();
    if (document.fullscreenElement) void document.exitFullscreen();
    this.#opener?.focus();
  }

  /** The small window, or none again. */
  async float() {
    if (this.#window.shown) return this.#window.close();
    const opened = CaptionWindow.possible && (await this.#window.open());
    if (!opened) this.#refused();
    else if (this.shown) this.close();
  }

  /** The newest words, at the next frame. */
  render() {
    this.#window.render();
    if (!this.shown || this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame(() => {
      this.#scheduled = false;
      if (this.shown) this.#lines.show(this.#current());
    });
  }

  /** @param {any} field */
  #take(field) {
    const values = /** @type {Record<string, any>} */ (this.#settings);
    if (field.type === "checkbox") values[field.name] = field.checked;
    else if (typeof values[field.name] === "number") values[field.name] = Number(field.value);
    else values[field.name] = field.value;
    save(this.#settings);
    this.#dress();
    this.#showControls();
  }

  #dress() {
    const values = /** @type {Record<string, any>} */ (this.#settings);
    for (const field of this.#form.elements) {
      if (field.type === "checkbox") field.checked = values[field.name];
      else if (field.name) field.value = String(values[field.name]);
    }
    dressCaptions(this.#root, this.#settings);
    byId("stage-own").hidden = this.#settings.stageColours !== "own";
    byId("stage-size-text").textContent = `${this.#settings.stageSize} px`;
    this.#lines.count = this.#settings.stageLines;
    this.#lines.smooth = this.#settings.stageSmooth;
    this.#lines.reset();
    this.#window.dress();
    this.render();
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
