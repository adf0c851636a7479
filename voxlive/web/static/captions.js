/**
 * The captions of a session as a reader sees them: a span for each segment and speaker, in paragraphs
 * that end at pauses, at another speaker, and where they are long, with a sentence. A segment whose text
 * is corrected changes in place; one that turns out to be another speaker's is shown anew, with what
 * follows it.
 */
import { Blocks } from "./blocks.js";
import { make, SENTENCE_END } from "./dom.js";
import { colourOf, SpeakerNames } from "./speakers.js";

const PAUSE_S = 1.5; // a pause this long begins a new paragraph
const LONG = 280; // characters, from which on one ends with its sentence
const LONGEST = 900; // and with its word
const SENTENCES = /[^.!?…。！？؟।]*[.!?…。！？؟।]+["'”’»)\]]*\s*|[^.!?…。！？؟।]+$/gu;

/**
 * @typedef {import("./speakers.js").Part} Part
 * @typedef {import("./speakers.js").Speaker} Speaker
 * @typedef {{id: number, text: string, source?: string, start?: number, end?: number, parts?: Part[]}} Segment
 * @typedef {object} Shown
 * @property {Part[]} parts
 * @property {string} source
 * @property {number | undefined} start
 * @property {number} end
 * @property {{node: HTMLElement, speaker: Speaker}[]} spans one for each piece
 * @typedef {object} Paragraph
 * @property {HTMLElement} node
 * @property {HTMLElement | null} label who speaks, where that is another one than before
 * @property {string} source
 * @property {Speaker} speaker
 * @property {number} length
 * @property {number} end
 * @property {boolean} sentence whether it ends with one
 */

export class CaptionText {
  names;
  #blocks;
  /** @type {Map<number, Shown>} */
  #segments = new Map();
  /** @type {Paragraph[]} */
  #paragraphs = [];
  /** @type {Map<string, {node: HTMLElement, text: string}>} by source */
  #drafts = new Map();

  /** @param {HTMLElement} root @param {SpeakerNames} [names] */
  constructor(root, names = new SpeakerNames()) {
    this.names = names;
    this.#blocks = new Blocks(root);
  }

  get empty() {
    return this.#blocks.empty;
  }

  /** Another session begins behind this one. @param {string} text of the line between them */
  divide(text) {
    this.#segments.clear();
    this.clearDrafts();
    this.#paragraphs = [];
    if (!this.empty) this.#blocks.insert(make("div", "again", text), null);
  }

  /**
   * A segment is there, or has another text, or other speakers.
   * @param {Segment} segment
   * @returns {string} what is new at its end, "" if it has changed otherwise
   */
  put({ id, text, source = "", start, end, parts }) {
    const before = this.#segments.get(id);
    const shown = before ?? { parts: [], source, start, end: 0, spans: [] };
    const old = textOf(shown.parts);
    const grown = text.startsWith(old) ? text.slice(old.length) : "";
    shown.parts = parts ?? retold(shown.parts, text, grown);
    if (before === undefined) this.#segments.set(id, shown);
    if (this.#fits(shown)) this.#show(shown, shown.spans.length === 0 ? shown.start : undefined);
    else this.#showAgain(id);
    this.#endAt(shown, end ?? shown.end);
    return grown;
  }

  /** @param {number} id @param {string} more @param {string} source @param {{start: number, end: number}[]} words */
  append(id, more, source, words) {
    const text = textOf(this.#segments.get(id)?.parts ?? []) + more;
    this.#lift(source);
    this.put({ id, text, source, start: words[0]?.start, end: words.at(-1)?.end });
  }

  /** Whose the words of a segment are. @param {number} id @param {Part[]} parts */
  label(id, parts) {
    const shown = this.#segments.get(id);
    if (shown) this.put({ id, text: textOf(parts), source: shown.source, parts });
  }

  /** Speakers may have other names, or the page another language. */
  rename() {
    for (const { label, source, speaker } of this.#paragraphs) {
      const name = this.names.of(source, speaker);
      if (label && label.textContent !== name) label.textContent = name;
    }
  }

  /** Words behind a source's last that may still change. @param {string} text @param {string} source */
  draft(text, source) {
    this.#lift(source);
    if (text.trim() === "") return;
    // Its underline begins at a word.
    const guess = text.trimStart();
    const node = make("span", "", text.slice(0, text.length - guess.length), make("span", "draft", guess));
    this.#drafts.set(source, { node, text });
    const last = this.#last;
    if (last?.source === source) return last.node.append(node);
    const alone = make("p", "", node);
    alone.dir = "auto";
    this.#blocks.insert(alone, null);
  }

  clearDrafts() {
    for (const source of [...this.#drafts.keys()]) this.#lift(source);
  }

  get #last() {
    return this.#paragraphs.at(-1);
  }

  /** Takes a source's draft away. @param {string} source */
  #lift(source) {
    const node = this.#drafts.get(source)?.node;
    const around = node?.parentElement;
    this.#drafts.delete(source);
    node?.remove();
    if (around?.childNodes.length === 0) this.#blocks.remove(around);
  }

  /** Whether what is shown of it has the speakers that it has now. @param {Shown} shown */
  #fits({ parts, spans }) {
    const pieces = piecesOfParts(parts);
    return spans.every(({ speaker }, at) => at >= pieces.length || pieces[at].speaker === speaker);
  }

  /** A segment and all behind it, which are put where they belong by now. @param {number} id */
  #showAgain(id) {
    const ids = [...this.#segments.keys()];
    const again = ids.slice(ids.indexOf(id)).map((one) => /** @type {Shown} */ (this.#segments.get(one)));
    const drafts = [...this.#drafts];
    this.clearDrafts();
    for (const { spans } of again) for (const { node } of spans.splice(0)) node.remove();
    for (let last = this.#last; last && last.node.querySelector(".said") === null; last = this.#last) {
      this.#blocks.remove(last.node);
      this.#paragraphs.pop();
    }
    const last = this.#last;
    const rest = last ? [...last.node.querySelectorAll(".said")].map(({ textContent }) => textContent ?? "") : [];
    if (last) {
      last.length = rest.join("").length;
      last.sentence = SENTENCE_END.test(rest.at(-1) ?? "");
      const before = ids.slice(0, ids.indexOf(id)).findLast((one) => this.#segments.get(one)?.source === last.source);
      last.end = before === undefined ? 0 : (this.#segments.get(before)?.end ?? 0);
    }
    for (const shown of again) {
      this.#show(shown, shown.start);
      this.#endAt(shown, shown.end);
    }
    for (const [source, { text }] of drafts) this.draft(text, source);
  }

  /** @param {Shown} shown @param {number} end */
  #endAt(shown, end) {
    shown.end = end;
    const last = this.#last;
    if (last?.source === shown.source) last.end = Math.max(last.end, end);
  }

  /** @param {Shown} shown @param {number | undefined} start */
  #show(shown, start) {
    const pieces = piecesOfParts(shown.parts);
    const last = this.#last;
    const growing = shown.spans.at(-1)?.node.parentElement === last?.node;
    pieces.forEach(({ text, speaker }, at) => {
      const span = shown.spans[at]?.node;
      if (span) {
        const length = span.textContent?.length ?? 0;
        if (span.textContent !== text) span.textContent = text;
        if (last?.node === span.parentElement) this.#measure(text, text.length - length);
      } else if (shown.spans.length > 0 && !growing) {
        // A correction is in its place: what follows it stays where it is.
        /** @type {{node: HTMLElement}} */ (shown.spans.at(-1)).node.append(text);
      } else shown.spans.push({ node: this.#add(text, speaker, shown, at === 0 ? start : undefined), speaker });
    });
    for (const { node } of shown.spans.slice(pieces.length)) node.textContent = "";
  }

  /** @param {string} text @param {Speaker} speaker @param {Shown} shown @param {number | undefined} start */
  #add(text, speaker, shown, start) {
    const { source } = shown;
    this.#lift(source);
    let last = this.#last;
    const pause = start !== undefined && last !== undefined && start - last.end >= PAUSE_S;
    const full = last !== undefined && (last.length > LONGEST || (last.length > LONG && last.sentence));
    const same = last !== undefined && last.source === source && last.speaker === speaker;
    if (last === undefined || !same || pause || full) {
      const node = make("p", "");
      node.dir = "auto";
      const name = same ? "" : this.names.of(source, speaker);
      const label = name === "" ? null : make("span", "speaker", name);
      if (label) {
        label.dataset.colour = colourOf(speaker);
        node.append(label);
      }
      this.#blocks.insert(node, null);
      last = { node, label, source, speaker, length: 0, end: start ?? last?.end ?? 0, sentence: false };
      this.#paragraphs.push(last);
    }
    const span = make("span", "said", text);
    last.node.append(span);
    this.#measure(text, text.length);
    return span;
  }

  /** @param {string} piece that ends the last paragraph now @param {number} more characters */
  #measure(piece, more) {
    const last = /** @type {Paragraph} */ (this.#last);
    last.length += more;
    last.sentence = SENTENCE_END.test(piece);
  }
}

/** @param {Part[]} parts */
function textOf(parts) {
  return parts.map(({ text }) => text).join("");
}

/**
 * Parts of a segment with another text. @param {Part[]} parts @param {string} text
 * @param {string} grown what is new at its end; "": it has changed otherwise
 */
function retold(parts, text, grown) {
  const last = parts.at(-1);
  if (last === undefined) return [{ speaker: null, text }];
  if (grown === "" && textOf(parts) !== text) return [{ speaker: parts[0].speaker, text }];
  return [...parts.slice(0, -1), { speaker: last.speaker, text: last.text + grown }];
}

/** @param {Part[]} parts @returns {Part[]} in pieces for paragraphs */
function piecesOfParts(parts) {
  return parts.flatMap(({ speaker, text }) => piecesOf(text).map((piece) => ({ speaker, text: piece })));
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
