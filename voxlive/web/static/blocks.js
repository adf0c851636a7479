/**
 * A long list on screen, in blocks of rows. The style sheet leaves blocks out of sight unrendered
 * (content-visibility), and the browser looks at each block in every frame: at each row it would take
 * longer than a frame has for a day of speech.
 */
import { make } from "./dom.js";

const ROWS = 100; // of a block
const ROW_REM = 5; // about how high one is, until it has been rendered

export class Blocks {
  #list;

  /** @param {HTMLElement} list has nothing but the blocks */
  constructor(list) {
    this.#list = list;
  }

  get empty() {
    return !this.#list.hasChildNodes();
  }

  /** Puts a row before another one; null: at the end. @param {HTMLElement} row @param {HTMLElement | null} next */
  insert(row, next) {
    const from = row.parentElement;
    if (next) next.before(row);
    else this.#last.append(row);
    if (from && !from.hasChildNodes()) from.remove();
  }

  /** Puts rows before all others. @param {HTMLElement[]} rows */
  prepend(rows) {
    for (let to = rows.length; to > 0; to -= ROWS) {
      this.#list.prepend(block(rows.slice(Math.max(0, to - ROWS), to)));
    }
  }

  /** @param {HTMLElement} row */
  remove(row) {
    const from = row.parentElement;
    row.remove();
    if (from && !from.hasChildNodes()) from.remove();
  }

  clear() {
    this.#list.replaceChildren();
  }

  /** The block at the end, which has room. */
  get #last() {
    const last = this.#list.lastElementChild;
    if (last && last.childElementCount < ROWS) return last;
    const next = block([]);
    this.#list.append(next);
    return next;
  }
}

/** @param {HTMLElement[]} rows */
function block(rows) {
  const made = make("div", "block", ...rows);
  made.style.setProperty("contain-intrinsic-height", `auto ${ROW_REM * Math.max(1, rows.length)}rem`);
  return made;
}
