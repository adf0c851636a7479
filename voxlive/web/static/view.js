/**
 * The transcript on screen.
 *
 * A paragraph is three elements and one text node, however long it is, and the style sheet leaves
 * those out of sight unrendered (content-visibility), so hours of captions stay light and whole.
 */
import { clock, make } from "./dom.js";

const NEAR_END_PX = 60;
const ANNOUNCED = 3; // pieces kept for screen readers
const ANNOUNCE_MS = 3000; // without the end of a sentence, a piece is read out after this time
const ANNOUNCE_CHARS = 500; // and no longer one is waited for, where sentences are wanted whole
const SENTENCE_END = /[.!?…。！？؟।]["'”’»)\]]*\s*$/u;

/**
 * @typedef {import("./transcript.js").Transcript} Transcript
 * @typedef {import("./transcript.js").Paragraph | import("./transcript.js").Mark} Item
 */

export class TranscriptView {
  #scroller;
  #list;
  #jump;
  #announcer;
  /** @type {import("./settings.js").Settings["announce"]} what screen readers get by themselves */
  announcing = "steady";
  #unread = ""; // words that they have not had
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #reading;
  /** @type {{item: Item, node: HTMLElement, text: Text, shown: number}[]} one per item of the transcript */
  #rows = [];
  #ahead = 0; // of the rows
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
    /** @type {HTMLElement} */ (this.#draftRow.lastElementChild).dir = "auto";
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

  /**
   * Words for screen readers, which get them a sentence at a time, or what there is after 3 s;
   * whole sentences alone, or nothing, if the reader wants that.
   * @param {string} text
   */
  announce(text) {
    if (this.announcing === "off") return;
    this.#unread += text;
    if (SENTENCE_END.test(this.#unread) || this.#unread.length > ANNOUNCE_CHARS) this.readOut();
    else if (this.announcing === "steady" && this.#reading === undefined && this.#unread !== "") {
      this.#reading = setTimeout(() => this.readOut(), ANNOUNCE_MS);
    }
  }

  /** Nothing follows for now: screen readers get the rest. */
  readOut() {
    clearTimeout(this.#reading);
    this.#reading = undefined;
    const text = this.#unread.trim();
    this.#unread = "";
    if (text === "") return;
    this.#announcer.append(make("p", "", text));
    while (this.#announcer.childElementCount > ANNOUNCED) this.#announcer.firstChild?.remove();
  }

  /** Scrolls to the newest words and stays with them. */
  follow() {
    this.#following = true;
    this.#keepUp();
  }

  clear() {
    this.#rows = [];
    this.#unread = "";
    this.#list.replaceChildren();
    this.#announcer.replaceChildren();
    this.follow();
  }

  /** @param {Transcript} transcript */
  #render({ items, draft, ahead }) {
    const first = Math.max(0, this.#rows.length - this.#ahead - 1);
    for (let index = first; index < items.length; index++) {
      if (this.#rows[index]?.item !== items[index]) {
        const next = this.#rows[index]?.node ?? null;
        this.#rows.splice(index, 0, this.#add(items[index], next));
      }
      const row = this.#rows[index];
      const text = items[index].text;
      row.text.appendData(text.slice(row.shown));
      row.shown = text.length;
    }
    this.#ahead = ahead;
    this.#place(draft, this.#rows[items.length - ahead - 1]?.node, this.#rows[items.length - ahead]?.node);
    this.#keepUp();
  }

  /** @param {Item} item @param {HTMLElement | null} next */
  #add(item, next) {
    const text = document.createTextNode("");
    const isMark = item.kind === "mark";
    const at = make("time", "", clock(isMark ? item.at : item.start));
    const words = make("p", "", text);
    words.dir = "auto";
    const node = make("div", isMark ? "mark" : "paragraph", at, words);
    if (isMark && item.own) node.classList.add("own");
    this.#list.insertBefore(node, next);
    return { item, node, text, shown: 0 };
  }

  /**
   * @param {import("./transcript.js").Draft | null} draft
   * @param {HTMLElement | undefined} last row before it
   * @param {HTMLElement | undefined} next row behind it
   */
  #place(draft, last, next) {
    const apart = draft !== null && (draft.apart || last === undefined);
    const text = draft?.text ?? "";
    this.#draft.textContent = text.trimStart();
    this.#space.data = apart ? "" : text.slice(0, text.length - text.trimStart().length);
    if (draft === null) this.#draft.remove();
    else if (!apart) last?.lastElementChild?.append(this.#space, this.#draft);
    if (apart) {
      this.#draftTime.textContent = clock(draft.start);
      this.#draftRow.lastElementChild?.append(this.#space, this.#draft);
      this.#list.insertBefore(this.#draftRow, next ?? null);
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
    // The empty page begins at its top, however small the window is.
    if (this.#following && this.#list.hasChildNodes()) this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#jump.hidden = this.#following;
  }
}
