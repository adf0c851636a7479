/**
 * Reading a transcript: hear it from a word on with the words lit, correct words in place, choose which
 * layer of the server's is shown, and have it recognised again.
 */
import { Corrector } from "./correct.js";
import { boxesOf, spokenAs, WordCursor } from "./cursor.js";
import { byId, hide, make } from "./dom.js";
import { Player } from "./player.js";
import { StoreError } from "./store.js";
import { Transcript } from "./transcript.js";
import { say } from "./words.js";

const REFINED_MS = 2000; // between two looks at how far refining is

/**
 * @typedef {import("./cursor.js").Place} Place
 * @typedef {import("./segment.js").Correction} Correction
 * @typedef {object} ReadingListener
 * @property {() => boolean} busy whether sound is recorded, so that nothing may be heard
 * @property {(text: string) => void} note a word beside the clock, for a moment
 * @property {(advice: import("./messages.js").Advice) => void} notice
 * @property {(id: string, layer: string) => Promise<void>} reopen shows another layer of the server's
 */

export class Reading {
  #session;
  #store;
  #view;
  #listener;
  #player;
  #corrector;
  #cursor;
  #captions = byId("captions");
  #bar = byId("reading");
  #undo = byId("undo");
  #layer = byId("layer");
  #refine = byId("refine");
  #heard = byId("heard");
  /** @type {Correction[][]} what takes the corrections back, the last one first */
  #back = [];
  /** @type {{start: number, end: number}} of the word that is lit */
  #lit = { start: 0, end: 0 };
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #refining;

  /**
   * @param {import("./session.js").Session} session
   * @param {import("./store.js").Store} store
   * @param {import("./view.js").TranscriptView} view
   * @param {ReadingListener} listener
   */
  constructor(session, store, view, listener) {
    this.#session = session;
    this.#store = store;
    this.#view = view;
    this.#listener = listener;
    this.#player = new Player({
      piece: (t) => this.#piece(t),
      moved: (t) => this.#light(t),
      missing: () => listener.note(say("player.missing")),
      length: () => session.duration,
    });
    this.#corrector = new Corrector((corrections) => this.#corrected(corrections));
    this.#cursor = new WordCursor(this.#captions, view, {
      hear: ({ start }) => this.#hear(start),
      correct: (place) => this.#correct(place),
      chosen: (place) => this.#chosen(place),
      pointed: (place) => this.#tell(place),
    });
    byId("undo-go").addEventListener("click", () => this.undo());
    this.#layer.addEventListener("change", () => void this.#choose());
    this.#refine.addEventListener("click", () => void this.#askToRefine());
    addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.#heard.hidden = true;
      const typed = /** @type {Element} */ (event.target).matches?.("input, textarea, select");
      if (event.key !== "z" || !(event.ctrlKey || event.metaKey) || event.shiftKey || typed) return;
      if (this.#back.length === 0) return;
      event.preventDefault();
      this.undo();
    });
  }

  /** What there is to do with the transcript that is shown. */
  render() {
    const { layered, audio } = this.#session;
    document.body.toggleAttribute("data-audible", audio.audible && !this.#listener.busy());
    hide(byId("layers"), layered === undefined || (layered.layers.length < 2 && !layered.audio));
    this.#showBar();
    if (layered === undefined) return;
    const names = layered.layers.includes("refined") ? ["best", ...layered.layers] : layered.layers;
    const options = names.map((name) => {
      const text = say(/** @type {"layer.best"} */ (`layer.${name}`));
      return new Option(text, name);
    });
    this.#layer.replaceChildren(...options);
    const shown = names.includes(layered.layer) ? layered.layer : (names.at(-1) ?? "live");
    this.#layer.value = shown;
    /** @type {HTMLElement} */ (this.#layer.parentElement).hidden = names.length < 2;
    this.#refine.hidden = !layered.audio || ["queued", "running"].includes(layered.refinement);
  }

  /** Another transcript is shown. */
  reset() {
    clearTimeout(this.#refining);
    this.#player.close();
    this.#corrector.cancel();
    this.#cursor.leave();
    this.#back = [];
    this.#undo.hidden = this.#heard.hidden = true;
    byId("refine-state").textContent = "";
    this.render();
  }

  /** Sound is recorded from now on. */
  hush() {
    if (this.#player.open) this.#player.close(); // there will be more of it to hear
    this.render();
  }

  /** Takes the last correction back. */
  undo() {
    const back = this.#back.pop();
    if (back === undefined) return;
    this.#session.correct(back);
    this.#said(say("correct.undone"));
  }

  // Hearing

  /** @param {number} t */
  #hear(t) {
    if (this.#corrector.open) return;
    if (this.#listener.busy()) return this.#listener.note(say("player.recording"));
    if (!this.#session.audio.audible) return;
    if (this.#player.playing && this.#lit.start === t) return this.#player.pause();
    void this.#player.from(t);
  }

  /** @param {number} t */
  async #piece(t) {
    try {
      return await this.#session.audio.at(t);
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
      return null;
    } finally {
      this.#showBar();
    }
  }

  /** Lights the word of a moment. @param {number | null} t */
  #light(t) {
    const { lights } = this.#view;
    this.#showBar();
    if (t === null) {
      this.#lit = { start: 0, end: 0 };
      return lights.set("playing", null);
    }
    if (this.#lit.start <= t && t < this.#lit.end) return;
    for (const row of this.#view.paragraphs) {
      const { item } = row;
      if (item.kind !== "paragraph" || item.start > t || item.end < t) continue;
      const word = Transcript.placed(item).findLast(({ start }) => start <= t);
      if (word === undefined || word.end < t) continue;
      this.#lit = word;
      lights.set("playing", row.text, word.from, word.to);
      return this.#view.reveal(row);
    }
  }

  #showBar() {
    const parts = /** @type {HTMLElement[]} */ ([...this.#bar.children]);
    hide(this.#bar, parts.every(({ hidden }) => hidden));
  }

  // Choosing and correcting words

  /** @param {Place | null} place */
  #chosen(place) {
    const { lights } = this.#view;
    this.#tell(place);
    if (place === null) return lights.set("chosen", null);
    const { from, to } = place.words[place.index];
    lights.set("chosen", place.row.text, from, to);
    this.#view.reveal(place.row);
    byId("said").textContent = spokenAs(place);
  }

  /** What was recognised in place of a corrected word. @param {Place | null} place */
  #tell(place) {
    const { heard, original } = place?.words[place.index] ?? {};
    const text = heard ?? original;
    this.#heard.hidden = text === undefined;
    if (place === null || text === undefined) return;
    const [box] = boxesOf(place.row, place.words[place.index]);
    this.#heard.textContent = say("correct.heard", { text: text.trim() });
    this.#heard.style.translate = `${Math.round(box.left)}px ${Math.round(box.bottom)}px`;
  }

  /** @param {Place} place */
  #correct(place) {
    const { layered } = this.#session;
    if (layered && ["live", "refined"].includes(this.#layer.value) && layered.layers.length > 1) {
      return this.#listener.note(say("correct.layer"));
    }
    this.#player.pause();
    this.#cursor.leave();
    this.#corrector.show(place);
  }

  /** @param {Correction[]} corrections */
  #corrected(corrections) {
    this.#captions.focus();
    if (corrections.length === 0) return;
    this.#back.push(this.#session.correct(corrections));
    const { layered } = this.#session;
    if (layered && !layered.layers.includes("corrected")) {
      layered.layers.splice(1, 0, "corrected");
      if (layered.layer === "live") layered.layer = "corrected";
      this.render();
    }
    this.#said(say("correct.done"));
  }

  /** @param {string} text */
  #said(text) {
    this.#light(null); // the words that are lit may be other ones
    byId("undo-text").textContent = text;
    byId("undo-go").hidden = this.#back.length === 0;
    this.#undo.hidden = false;
    this.#showBar();
  }

  // The server's layers

  async #choose() {
    const [part] = this.#session.parts.all;
    if (part) await this.#listener.reopen(part.id, this.#layer.value);
  }

  async #askToRefine() {
    const { server } = this.#store;
    const [part] = this.#session.parts.all;
    if (server === null || !part) return;
    await this.#tried(async () => {
      await server.refine(part.id);
      await this.#watch(part.id);
    });
  }

  /** Looks how far it is, until that is over. @param {string} id */
  async #watch(id) {
    const { server } = this.#store;
    const found = await server?.refinement(id);
    if (!found || this.#session.parts.all[0]?.id !== id) return;
    const key = /** @type {"refine.queued"} */ (`refine.${found.state}`);
    if (found.state === "done") await this.#listener.reopen(id, "best");
    byId("refine-state").textContent = say(key, { why: found.message });
    this.#refine.hidden = found.state !== "failed";
    if (found.state !== "queued" && found.state !== "running") return;
    this.#refining = setTimeout(() => void this.#tried(() => this.#watch(id)), REFINED_MS);
  }

  /** @param {() => Promise<void>} act */
  async #tried(act) {
    try {
      await act();
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
      byId("refine-state").textContent = say("refine.failed", { why: error.message });
    }
  }
}
