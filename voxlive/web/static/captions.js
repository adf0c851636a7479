/**
 * The captions of a session as a reader sees them: a span for each segment, in paragraphs that end
 * at pauses, at another speaker, and where they are long, with a sentence. A segment whose text is
 * corrected changes in place.
 */
import { Blocks } from "./blocks.js";
import { make, SENTENCE_END } from "./dom.js";

const PAUSE_S = 1.5; // a pause this long begins a new paragraph
const LONG = 280; // characters, from which on one ends with its sentence
const LONGEST = 900; // and with its word
const SENTENCES = /[^.!?…。！？؟।]*[.!?…。！？؟।]+["'”’»)\]]*\s*|[^.!?…。！？؟।]+$/gu;

/**
 * @typedef {{id: number, text: string, source?: string, start?: number, end?: number}} Segment
 * @typedef {object} Shown
 * @property {string} text
 * @property {string} source
 * @property {number} end
 * @property {HTMLElement[]} spans one for each piece
 * @typedef {{node: HTMLElement, source: string, length: number, end: number, sentence: boolean}} Paragraph
 */

export class CaptionText {
  #blocks;
  /** @type {Map<number, Shown>} */
  #segments = new Map();
  /** @type {Paragraph | null} the last one */
  #last = null;
  /** @type {Map<string, HTMLElement>} by source */
  #drafts = new Map();

  /** @param {HTMLElement} root */
  constructor(root) {
    this.#blocks = new Blocks(root);
  }

  get empty() {
    return this.#blocks.empty;
  }

  /** Another session begins behind this one. @param {string} text of the line between them */
  divide(text) {
    this.#segments.clear();
    this.clearDrafts();
    this.#last = null;
    if (!this.empty) this.#blocks.insert(make("div", "again", text), null);
  }

  /**
   * A segment is there, or has another text.
   * @param {Segment} segment
   * @returns {string} what is new at its end, "" if it has changed otherwise
   */
  put({ id, text, source = "", start, end }) {
    const before = this.#segments.get(id);
    const shown = before ?? { text: "", source, end: 0, spans: [] };
    const grown = text.startsWith(shown.text) ? text.slice(shown.text.length) : "";
    shown.text = text;
    if (before === undefined) this.#segments.set(id, shown);
    this.#show(shown, start);
    shown.end = end ?? shown.end;
    if (this.#last?.source === source) this.#last.end = Math.max(this.#last.end, shown.end);
    return grown;
  }

  /** @param {number} id @param {string} more @param {string} source @param {{start: number, end: number}[]} words */
  append(id, more, source, words) {
    const text = (this.#segments.get(id)?.text ?? "") + more;
    this.#lift(source);
    this.put({ id, text, source, start: words[0]?.start, end: words.at(-1)?.end });
  }

  /** Words behind a source's last that may still change. @param {string} text @param {string} source */
  draft(text, source) {
    this.#lift(source);
    if (text.trim() === "") return;
    // Its underline begins at a word.
    const guess = text.trimStart();
    const node = make("span", "", text.slice(0, text.length - guess.length), make("span", "draft", guess));
    this.#drafts.set(source, node);
    if (this.#last?.source === source) return this.#last.node.append(node);
    const alone = make("p", "", node);
    alone.dir = "auto";
    this.#blocks.insert(alone, null);
  }

  clearDrafts() {
    for (const source of [...this.#drafts.keys()]) this.#lift(source);
  }

  /** Takes a source's draft away. @param {string} source */
  #lift(source) {
    const node = this.#drafts.get(source);
    const around = node?.parentElement;
    this.#drafts.delete(source);
    node?.remove();
    if (around?.childNodes.length === 0) this.#blocks.remove(around);
  }

  /** @param {Shown} shown @param {number | undefined} start */
  #show(shown, start) {
    const pieces = piecesOf(shown.text);
    const growing = shown.spans.at(-1)?.parentElement === this.#last?.node;
    pieces.forEach((piece, at) => {
      const span = shown.spans[at];
      if (span) {
        const length = span.textContent?.length ?? 0;
        if (span.textContent !== piece) span.textContent = piece;
        if (this.#last?.node === span.parentElement) this.#measure(piece, piece.length - length);
      } else if (shown.spans.length > 0 && !growing) {
        // A correction is in its place: what follows it stays where it is.
        /** @type {HTMLElement} */ (shown.spans.at(-1)).append(piece);
      } else shown.spans.push(this.#add(piece, shown, at === 0 ? start : undefined));
    });
    for (const span of shown.spans.slice(pieces.length)) span.textContent = "";
  }

  /** @param {string} piece @param {Shown} shown @param {number | undefined} start */
  #add(piece, shown, start) {
    const { source } = shown;
    this.#lift(source);
    const last = this.#last;
    const pause = start !== undefined && last !== null && start - last.end >= PAUSE_S;
    const full =
      last !== null && (last.length > LONGEST || (last.length > LONG && last.sentence));
    let paragraph = last;
    if (paragraph === null || paragraph.source !== source || pause || full) {
      const node = make("p", "");
      node.dir = "auto";
      if (source !== "" && source !== last?.source) node.append(make("span", "speaker", source));
      this.#blocks.insert(node, null);
      paragraph = { node, source, length: 0, end: start ?? last?.end ?? 0, sentence: false };
      this.#last = paragraph;
    }
    const span = make("span", "", piece);
    paragraph.node.append(span);
    this.#measure(piece, piece.length);
    return span;
  }

  /** @param {string} piece that ends the last paragraph now @param {number} more characters */
  #measure(piece, more) {
    const last = /** @type {Paragraph} */ (this.#last);
    last.length += more;
    last.sentence = SENTENCE_END.test(piece);
  }
}

/** A text in pieces for paragraphs; those before the last stay what they are when it grows. @param {string} text */
export function piecesOf(text) {
  if (text.length <= LONG) return [text];
  const pieces = [""];
  for (const sentence of text.match(SENTENCES) ?? [text]) {
    if (/** @type {string} */ (pieces.at(-1)).length > LONG) pieces.push("");
    pieces[pieces.length - 1] += sentence;
  }
  return pieces;
}
