/**
 * The transcript on screen.
 *
 * A paragraph is three elements and one text node, however long it is, and the style sheet leaves
 * those out of sight unrendered (content-visibility), so hours of captions stay light and whole.
 */
import { clock, make } from "./dom.js";

const NEAR_END_PX = 60;
const ANNOUNCED = 3; // utterances kept for screen readers

/** @typedef {import("./transcript.js").Transcript} Transcript */

export class Captions {
  #scroller;
  #list;
  #jump;
  #announcer;
  /** @type {{node: HTMLElement, text: Text, shown: number}[]} one per item of the transcript */
  #rows = [];
  #draft = make("span", "draft");
  #space = document.createTextNode(""); // before the draft, so that its underline begins at a word
  #draftTime = document.createElement("time");
  #draftRow = make("div", "paragraph", this.#draftTime, make("p", ""));
  #following = true;
  #lastTop = 0;
  #scheduled = false;
  /** @type {Transcript | null} */
  #transcript = null;

  /**
   * @param {HTMLElement} scroller
   * @param {HTMLElement} list
   * @param {HTMLElement} jump the button that leads back to the newest words
   * @param {HTMLElement} announcer the aria-live region
   */
  constructor(scroller, list, jump, announcer) {
    this.#scroller = scroller;
    this.#list = list;
    this.#jump = jump;
    this.#announcer = announcer;
    scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    jump.addEventListener("click", () => this.follow());
    new ResizeObserver(() => this.#keepUp()).observe(list);
    new ResizeObserver(() => this.#keepUp()).observe(scroller);
  }

  /** Shows it as it is now, at the next frame. @param {Transcript} transcript */
  show(transcript) {
    this.#transcript = transcript;
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame(() => {
      this.#scheduled = false;
      this.#render(/** @type {Transcript} */ (this.#transcript));
    });
  }

  /** Reads the words of closed utterances out to screen readers. @param {string} text */
  announce(text) {
    this.#announcer.append(make("p", "", text.trim()));
    while (this.#announcer.childElementCount > ANNOUNCED) this.#announcer.firstChild?.remove();
  }

  /** Scrolls to the newest words and stays with them. */
  follow() {
    this.#following = true;
    this.#keepUp();
  }

  clear() {
    this.#rows = [];
    this.#list.replaceChildren();
    this.#announcer.replaceChildren();
    this.follow();
  }

  /** @param {Transcript} transcript */
  #render({ items, draft }) {
    for (let index = Math.max(0, this.#rows.length - 1); index < items.length; index++) {
      const row = (this.#rows[index] ??= this.#add(items[index]));
      const text = items[index].text;
      row.text.appendData(text.slice(row.shown));
      row.shown = text.length;
    }
    this.#place(draft);
    this.#keepUp();
  }

  /** @param {import("./transcript.js").Paragraph | import("./transcript.js").Mark} item */
  #add(item) {
    const text = document.createTextNode("");
    const isMark = item.kind === "mark";
    const at = make("time", "", clock(isMark ? item.at : item.start));
    const node = make("div", isMark ? "mark" : "paragraph", at, make("p", "", text));
    this.#list.append(node);
    return { node, text, shown: 0 };
  }

  /** @param {import("./transcript.js").Draft | null} draft */
  #place(draft) {
    const last = this.#rows.at(-1)?.node;
    const apart = draft !== null && (draft.apart || last === undefined);
    const text = draft?.text ?? "";
    this.#draft.textContent = text.trimStart();
    this.#space.data = apart ? "" : text.slice(0, text.length - text.trimStart().length);
    if (draft === null) this.#draft.remove();
    else if (!apart) last?.lastElementChild?.append(this.#space, this.#draft);
    if (apart) {
      this.#draftTime.textContent = clock(draft.start);
      this.#draftRow.lastElementChild?.append(this.#space, this.#draft);
      this.#list.append(this.#draftRow);
    } else this.#draftRow.remove();
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    if (scrollHeight - scrollTop - clientHeight < NEAR_END_PX) this.#following = true;
    else if (scrollTop < this.#lastTop) this.#following = false;
    this.#lastTop = scrollTop;
    this.#jump.hidden = this.#following;
  }

  #keepUp() {
    if (this.#following) this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#jump.hidden = this.#following;
  }
}
