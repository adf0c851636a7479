/**
 * The newest captions as whole lines, the last of which stands at the bottom. Each paragraph is a
 * block of its own, so that what goes out at the top moves no line break below it. Lines move up
 * whole, and stay up while a draft takes a word back.
 */
import { make } from "./dom.js";

const SHOWN_CHARS = 2000; // more than five lines of the smallest size on a wide screen
const DASH = "\u2013 "; // where another source goes on, as in subtitles
const MOVE_MS = 180;
const REDUCED = matchMedia("(prefers-reduced-motion: reduce)");

/**
 * @typedef {import("./settings.js").Settings} Settings
 * @typedef {import("./transcript.js").Transcript} Transcript
 * @typedef {import("./transcript.js").Paragraph} Paragraph
 * @typedef {{node: HTMLElement, text: Text}} Block
 */

export class CaptionLines {
  #box;
  #roll = make("div", "caption-roll");
  #draft = make("span", "caption-draft");
  #draftBlock = make("p", "");
  /** @type {Map<Paragraph, Block>} */
  #blocks = new Map();
  #height = 0; // of the lines, with one that is kept free
  #width = 0;
  /** @type {Animation | null} */
  #moving = null;
  smooth = true;
  /** How many there are. */
  count = 1;

  /** @param {HTMLElement} box has the height of all lines */
  constructor(box) {
    this.#box = box;
    this.#draftBlock.dir = "auto";
    box.replaceChildren(this.#roll);
  }

  /** @param {Transcript} transcript */
  show({ items, draft }) {
    const before = this.#roll.textContent === "" ? null : this.#height;
    const shown = newest(items);
    /** @type {HTMLElement | null} */
    let last = null;
    let speaking = shown[0]?.who ?? "";
    for (const item of shown) {
      last = this.#put(item, last, item.who === speaking ? "" : DASH);
      speaking = item.who;
    }
    const said = shown.findLast(({ source }) => source === draft?.source);
    const home = said ? this.#blocks.get(said)?.node : null;
    const apart = draft !== null && (draft.apart || !home);
    const guess = draft?.text ?? "";
    const turn = last !== null && (said?.who ?? draft?.source) !== speaking ? DASH : "";
    const text = apart ? turn + guess.trimStart() : guess;
    if (this.#draft.textContent !== text) this.#draft.textContent = text;
    if (apart) {
      this.#draftBlock.append(this.#draft);
      this.#roll.append(this.#draftBlock);
    } else {
      this.#draftBlock.remove();
      if (draft === null) this.#draft.remove();
      else home?.append(this.#draft);
    }
    this.#move(before, draft !== null, this.#trim(shown));
  }

  /** Sizes have changed: where lines are starts anew. */
  reset() {
    this.#width = 0;
  }

  /** @param {Paragraph} item @param {HTMLElement | null} last @param {string} turn @returns {HTMLElement} */
  #put(item, last, turn) {
    let block = this.#blocks.get(item);
    if (block === undefined) {
      const text = document.createTextNode("");
      const node = make("p", "", text);
      node.dir = "auto";
      block = { node, text };
      this.#blocks.set(item, block);
      if (last) last.after(node);
      else this.#roll.prepend(node);
    }
    const said = turn + item.text;
    if (block.text.data !== said) block.text.data = said;
    return block.node;
  }

  /** Takes out what is shown no more, far above. @param {Paragraph[]} shown @returns {number} its height */
  #trim(shown) {
    const full = this.#roll.offsetHeight;
    for (const [item, { node }] of this.#blocks) {
      if (shown.includes(item)) continue;
      node.remove();
      this.#blocks.delete(item);
    }
    return full - this.#roll.offsetHeight;
  }

  /** @param {number | null} before @param {boolean} drafted @param {number} trimmed */
  #move(before, drafted, trimmed) {
    const { clientWidth } = this.#box;
    const turned = clientWidth !== this.#width;
    this.#width = clientWidth;
    this.#roll.style.paddingBottom = "";
    const natural = this.#roll.offsetHeight;
    const line = this.#box.clientHeight / this.count;
    const stood = turned || before === null ? natural : Math.max(0, before - trimmed);
    // One line is kept free at most, and never the only one.
    const free = drafted && this.count > 1 ? Math.min(Math.max(0, stood - natural), line) : 0;
    const kept = free < line / 2 ? 0 : free;
    if (kept > 0) this.#roll.style.paddingBottom = `${kept}px`;
    this.#height = natural + kept;
    if (turned || before === null) return;
    const by = this.#height - stood;
    if (Math.abs(by) < line / 2 || Math.abs(by) > line * this.count) return;
    if (!this.smooth || REDUCED.matches) return;
    const left = this.#left();
    this.#moving?.cancel();
    this.#moving = this.#roll.animate(
      [{ transform: `translateY(${by + left}px)` }, { transform: "none" }],
      { duration: MOVE_MS, easing: "ease-out" },
    );
  }

  /** How far the last movement has still to go. */
  #left() {
    if (this.#moving?.playState !== "running") return 0;
    const { transform } = getComputedStyle(this.#roll);
    return transform === "none" ? 0 : new DOMMatrix(transform).m42;
  }
}

/** The last paragraphs. @param {Transcript["items"]} items @returns {Paragraph[]} in order */
export function newest(items) {
  const shown = [];
  let length = 0;
  for (let at = items.length - 1; at >= 0 && length < SHOWN_CHARS; at--) {
    const item = items[at];
    if (item.kind !== "paragraph") continue;
    shown.unshift(item);
    length += item.text.length;
  }
  return shown;
}

/** How captions look. @param {HTMLElement} element @param {Settings} settings */
export function dressCaptions(element, settings) {
  const { stageSize, stageLines, stageWidth, stageSpacing, stageColours, stageFont } = settings;
  const { style, dataset } = element;
  style.setProperty("--stage-size", `${stageSize}px`);
  style.setProperty("--stage-lines", String(stageLines));
  style.setProperty("--stage-width", `${stageWidth}%`);
  style.setProperty("--stage-spacing", String(stageSpacing));
  style.setProperty("--own-ink", settings.stageInk);
  style.setProperty("--own-ground", settings.stageGround);
  dataset.colours = stageColours;
  if (stageFont === "page") delete dataset.font;
  else dataset.font = stageFont;
}
