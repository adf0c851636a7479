/**
 * The transcript as data: segments of words with their times, and what is shown of them.
 *
 * Committed words are only ever appended; corrections lie over them, and the words stay. Memory grows by
 * the words alone, some 100 bytes each: an eight-hour day of speech is about 70,000 words.
 *
 * Of several sources each has its own open segment, paragraph and draft; paragraphs stand in the order of
 * their starts.
 */
import { SENTENCE_END } from "./dom.js";
import { isFull, textIn } from "./paragraph.js";
import { Segment } from "./segment.js";
import { SpeakerNames, VoiceNumbers } from "./speakers.js";

export const PARAGRAPH_PAUSE_S = 1.5; // a pause this long begins a new paragraph
const REACTION_S = 0.7; // after which somebody who listens says that another one speaks
const ONSET_S = 0.3; // by which a first word may begin before its speech was detected
const TURN_S = 2.5; // an utterance that began so long before may be the other one's
const NEWEST = 4; // utterances in which the first word of somebody who speaks now may be
const NEAR = 60; // paragraphs at the end, in which words may get another speaker
const UNWORDED = 100; // beginnings of speech that are remembered while no word comes

/**
 * @typedef {import("./link.js").Word} Word
 * @typedef {import("./segment.js").ShownWord} ShownWord
 * @typedef {import("./segment.js").Correction} Correction
 * @typedef {object} Paragraph
 * @property {"paragraph"} kind
 * @property {number} start
 * @property {number} end
 * @property {string} text
 * @property {string} source "" where there is one alone
 * @property {number | null} speaker within the source; null: not known
 * @property {string} who speaks, by name; "" where nothing is known
 * @property {{segment: Segment, first: number, stop: number}[]} runs the words that it is made of
 * @property {boolean} closed no word is added to it
 * @property {number} version counts the changes that are more than words at its end
 * @typedef {{kind: "mark", at: number, text: string, own?: boolean}} Mark something that happened,
 *   in words; `own`: set by the reader
 * @typedef {import("./segment.js").Span} Span
 * @typedef {{kind: "words", key: string, words: Word[], whole: boolean, span?: Span}} Run words of one
 *   segment with nothing between them
 * @typedef {Correction & {kind: "correction"}} CorrectionEntry
 * @typedef {{key: string, first: number, last: number, speaker: number}} Label whose words of a segment are
 * @typedef {{source: string, speaker: number, name: string}} Named what a speaker is called
 * @typedef {Run | Mark | CorrectionEntry | (Label & {kind: "speaker"}) | (Named & {kind: "name"})} Entry
 * @typedef {{key: string, source: string, text: string, start: number, apart: boolean}} Draft
 *   `apart` when it will begin a paragraph of its own
 * @typedef {ShownWord & {segment: Segment, from: number, to: number}} PlacedWord a word and where in
 *   its paragraph's text it stands
 */

export class Transcript {
  /** @type {Segment[]} */
  segments = [];
  wordCount = 0;
  /**
   * What is shown, in order. Those before the marks that are `ahead` may grow, others come behind them.
   * @type {(Paragraph | Mark)[]}
   */
  items = [];
  /** @type {Entry[]} all that came, from which all else follows */
  entries = [];
  /** How many marks at the end of both may have words before them that have not come yet. */
  ahead = 0;
  /** What may still change, by source. @type {Map<string, Draft>} */
  drafts = new Map();
  names;
  voices = new VoiceNumbers();
  /** The one who spoke last. @type {{source: string, speaker: number} | null} */
  speaking = null;
  /** What it was made of and with, for the JSON file. @type {Record<string, unknown>} */
  about = {};
  /** Of its audio in seconds, once that is over: no subtitle outlasts it. */
  duration = Infinity;
  /** @type {Map<string, Segment>} */
  #byKey = new Map();
  /** The paragraph of each source to which its next words may be added. @type {Map<string, Paragraph>} */
  #open = new Map();
  /** Who speaks from a time on, until there is a word. @type {{name: string, at: number} | null} */
  #turn = null;
  /** Where speech began since the last word, by source. @type {Map<string, number[]>} */
  #begun = new Map();

  /** @param {SpeakerNames} [names] */
  constructor(names = new SpeakerNames()) {
    this.names = names;
  }

  /** From what another one had. @param {Entry[]} entries @param {Record<string, unknown>} about */
  static of(entries, about, names = new SpeakerNames()) {
    const transcript = new Transcript(names);
    transcript.about = about;
    for (const entry of entries) {
      transcript.settle();
      if (entry.kind === "words") transcript.words(entry.key, entry.words, entry.whole, entry.span);
      else if (entry.kind === "mark") transcript.mark(entry.at, entry.text, entry.own);
      else if (entry.kind === "speaker") transcript.label(entry);
      else if (entry.kind === "name") transcript.name(entry);
      else transcript.correct(entry);
    }
    return transcript;
  }

  get empty() {
    return this.segments.length === 0 && this.items.length === 0;
  }

  /** All committed words, as they are corrected: their texts joined; of several sources a line each. */
  get text() {
    if (!this.sourced) return this.segments.map(({ text }) => text).join("");
    return this.segments.map(({ source, text }) => `${source}: ${text.trim()}\n`).join("");
  }

  /** Whether it has several sources. */
  get sourced() {
    return this.segments.some(({ source }) => source !== "");
  }

  /** Whether it says who speaks. */
  get voiced() {
    return this.sourced || this.speaking !== null;
  }

  /** The newest draft. @returns {Draft | null} */
  get draft() {
    return [...this.drafts.values()].at(-1) ?? null;
  }

  /** @param {string} key */
  segment(key) {
    return this.#byKey.get(key);
  }

  /** @param {number} t @param {string} [source] */
  speechStarted(t, source = "") {
    const begun = this.#begun.get(source) ?? [];
    if (begun.push(t) > UNWORDED) begun.shift();
    this.#begun.set(source, begun);
  }

  /** @param {string} key the segment @param {Word[]} words @param {boolean} [whole] @param {Span} [span] */
  words(key, words, whole = false, span) {
    if (words.length === 0) return;
    const source = words[0].source ?? "";
    let segment = this.#byKey.get(key);
    for (const word of words) {
      const fresh = segment === undefined;
      this.#pass(word, fresh);
      this.#log(key, word, whole);
      if (segment === undefined) {
        segment = new Segment(key, source, whole, span);
        this.#byKey.set(key, segment);
        this.segments.push(segment);
      }
      segment.add(word);
      this.wordCount += 1;
      this.#show(word, segment, fresh);
    }
    const heard = words[words.length - 1].end;
    this.#begun.set(source, (this.#begun.get(source) ?? []).filter((t) => t > heard));
    if (this.drafts.get(source)?.key === key) this.#consume(source, words);
  }

  /**
   * Replaces the draft of a source.
   * @param {string} key the segment
   * @param {string} text
   * @param {number} upto about where the engine is: speech that began later is not in the draft
   * @param {string} source
   */
  drafted(key, text, upto = Infinity, source = "") {
    this.drafts.delete(source);
    if (text.trim() === "") return;
    const last = this.#open.get(source);
    const heard = last?.end ?? -Infinity;
    const begun = this.#begun.get(source) ?? [];
    const start = Math.max(begun.findLast((t) => t <= upto) ?? begun[0] ?? 0, heard);
    const apart = last === undefined || !this.#goesOn(last, key, start);
    this.drafts.set(source, { key, source, text, start, apart });
  }

  /** What takes away the drafts of now that are still there then. */
  staleDrafts() {
    const stale = [...this.drafts];
    return () => {
      for (const [source, draft] of stale) {
        if (this.drafts.get(source) === draft) this.drafts.delete(source);
      }
    };
  }

  /** Nothing replaces these drafts any more: they go. @param {string} [key] of their segment; none: all */
  dropDrafts(key) {
    for (const [source, draft] of this.drafts) {
      if (key === undefined || draft.key === key) this.drafts.delete(source);
    }
  }

  /**
   * No words will replace the drafts any more: they stay, told apart from what was confirmed.
   * @param {(text: string) => string} told as such, in words
   */
  keepDrafts(told) {
    for (const { start, text } of this.drafts.values()) this.mark(start, told(text.trim()));
    this.drafts.clear();
  }

  /** Something happened at this place. @param {number} at @param {string} text @param {boolean} own */
  mark(at, text, own = false) {
    /** @type {Mark} */
    const mark = { kind: "mark", at, text, ...(own && { own }) };
    this.entries.push(mark);
    this.items.push(mark);
    this.ahead += 1;
  }

  /** Every word before the marks has come. */
  settle() {
    if (this.ahead > 0) this.#part();
    this.ahead = 0;
  }

  /** Another one speaks from about now on. @param {string} name @param {number} now */
  turn(name, now) {
    const begun = [...this.#begun.values()].flat().filter((t) => t <= now && t > now - TURN_S);
    this.#turn = { name, at: begun.length > 0 ? Math.max(...begun) - ONSET_S : now - REACTION_S };
  }

  /** What puts the name before the first word, once that is there. @returns {Correction | null} */
  named() {
    if (this.#turn === null) return null;
    const { name, at } = this.#turn;
    for (const { key, words } of this.segments.slice(-NEWEST)) {
      const first = words.findIndex(({ start }) => start >= at);
      if (first < 0) continue;
      this.#turn = null;
      const text = `${name}: ${words[first].text.trim()}`;
      return { key, first, stop: first + 1, text, made: new Date().toISOString(), speaker: name };
    }
    return null;
  }

  /** Words of a segment are other ones, as somebody who corrects it says. @param {Correction} correction */
  correct(correction) {
    const segment = this.#byKey.get(correction.key);
    if (segment === undefined) return;
    const { key, first, stop, text, made, speaker } = correction;
    const entry = /** @type {CorrectionEntry} */ ({ kind: "correction", key, first, stop, text, made });
    if (speaker) {
      entry.speaker = speaker;
      this.#divide(segment, first);
    }
    this.#note(entry);
    segment.correct(entry);
    for (const item of this.items) {
      if (item.kind !== "paragraph" || !item.runs.some((run) => run.segment === segment)) continue;
      item.text = textIn(item);
      item.version += 1;
    }
  }

  /** Words of a segment are a speaker's, as it turns out. @param {Label} label */
  label({ key, first, last, speaker }) {
    const segment = this.#byKey.get(key);
    if (segment === undefined) return;
    const { source } = segment;
    this.#note({ kind: "speaker", key, first, last, speaker });
    segment.label(first, last, speaker);
    this.speaking = { source, speaker: this.voices.learn(key, source, speaker) };
    for (let at = 0; at < segment.words.length; at++) {
      if (at === 0 || segment.speakerAt(at) !== segment.speakerAt(at - 1)) this.#divide(segment, at, true);
    }
    for (const item of this.items.slice(-NEAR)) {
      if (item.kind === "paragraph" && item.runs.some((run) => run.segment === segment)) this.#attribute(item);
    }
  }

  /** A speaker is called that. @param {Named} named */
  name({ source, speaker, name }) {
    this.#note({ kind: "name", source, speaker, name });
    this.names.set(source, speaker, name);
    this.rename();
  }

  /** Speakers may have other names, or the page another language. */
  rename() {
    for (const item of this.items) if (item.kind === "paragraph") this.#attribute(item);
  }

  /** Says who speaks in a paragraph: whoever has its first word. @param {Paragraph} item */
  #attribute(item) {
    const [{ segment, first }] = item.runs;
    const speaker = segment.speakerAt(first);
    const who = this.names.of(item.source, speaker);
    if (item.speaker === speaker && item.who === who) return;
    Object.assign(item, { speaker, who, version: item.version + 1 });
  }

  /** @param {Entry} entry that stands behind what has come */
  #note(entry) {
    this.entries.splice(this.entries.length - this.ahead, 0, entry);
  }

  /**
   * What takes these corrections back.
   * @param {Correction[]} corrections @returns {Correction[]}
   */
  restoring(corrections) {
    return corrections.flatMap(({ key, first, stop }) => {
      return this.#byKey.get(key)?.restoring(first, stop) ?? [];
    });
  }

  /** Its words, and where in its text they stand. @param {Paragraph} paragraph @returns {PlacedWord[]} */
  static placed(paragraph) {
    const words = paragraph.runs.flatMap(({ segment, first, stop }) =>
      segment.shown(first, stop).map((word) => ({ ...word, segment })),
    );
    let at = 0;
    return words.map((word, index) => {
      const text = index === 0 ? word.text.trimStart() : word.text;
      const lead = text.length - text.trimStart().length;
      const from = at + lead;
      at += text.length;
      return { ...word, from, to: at };
    });
  }

  /**
   * Nothing comes any more that is before this word: marks that are go behind what came before. One of
   * the reader's waits for the end of a sentence.
   * @param {Word} word @param {boolean} fresh whether it begins a segment
   */
  #pass(word, fresh) {
    while (this.ahead > 0) {
      const mark = /** @type {Mark} */ (this.items[this.items.length - this.ahead]);
      if (mark.at > word.start || (mark.own && this.#amid(word, fresh))) break;
      this.ahead -= 1;
      this.#part();
    }
  }

  /** Whether a sentence is under way. @param {Word} word that comes @param {boolean} fresh */
  #amid({ start, text, source = "" }, fresh) {
    return [...this.#open].some(([of, paragraph]) => {
      const { end, text: said, closed } = paragraph;
      if (closed || start - end >= PARAGRAPH_PAUSE_S || SENTENCE_END.test(said)) return false;
      return of !== source || !(fresh || isFull(said, false, text));
    });
  }

  /** What follows begins new paragraphs. */
  #part() {
    for (const paragraph of this.#open.values()) paragraph.closed = true;
  }

  /** What the next entries are put behind. @returns {Entry | undefined} */
  get #lastEntry() {
    return this.entries[this.entries.length - this.ahead - 1];
  }

  /** @param {string} key @param {Word} word @param {boolean} whole */
  #log(key, word, whole) {
    const last = this.#lastEntry;
    if (last?.kind === "words" && last.key === key) last.words.push(word);
    else {
      this.#note(/** @type {Run} */ ({ kind: "words", key, words: [word], whole }));
    }
  }

  /**
   * Whether words of a segment that begin then are added to the paragraph.
   * @param {Paragraph} paragraph @param {string} key @param {number} start
   */
  #goesOn(paragraph, key, start) {
    if (paragraph.closed || start - paragraph.end >= PARAGRAPH_PAUSE_S) return false;
    // Behind what another source has said since, an utterance goes on; the next one stands below.
    if (paragraph.runs[paragraph.runs.length - 1].segment.key === key) return true;
    return this.items[this.items.length - this.ahead - 1] === paragraph;
  }

  /** @param {Word} word the last one of the segment @param {Segment} segment @param {boolean} fresh */
  #show(word, segment, fresh) {
    const { source } = segment;
    const index = segment.words.length - 1;
    const last = this.#open.get(source);
    const speaker = segment.speakerAt(index);
    if (word.speaker !== undefined) {
      this.speaking = { source, speaker: this.voices.learn(segment.key, source, word.speaker) };
    }
    const other = last && speaker !== null && last.speaker !== null && last.speaker !== speaker;
    if (last && !other && this.#goesOn(last, segment.key, word.start) && !isFull(last.text, fresh, word.text)) {
      const run = last.runs[last.runs.length - 1];
      if (run.segment === segment) run.stop = index + 1;
      else last.runs.push({ segment, first: index, stop: index + 1 });
      last.text += word.text;
      last.end = Math.max(last.end, word.end);
      return;
    }
    const { start, end, text } = word;
    /** @type {Paragraph} */
    const paragraph = {
      kind: "paragraph",
      start,
      end,
      text: text.trimStart(),
      source,
      speaker,
      who: this.names.of(source, speaker),
      runs: [{ segment, first: index, stop: index + 1 }],
      closed: false,
      version: 0,
    };
    this.#open.set(source, paragraph);
    this.items.splice(this.#placeFor(paragraph), 0, paragraph);
  }

  /**
   * A word of a segment begins a paragraph. @param {Segment} segment @param {number} index
   * @param {boolean} [heard] only where another one speaks before it
   */
  #divide(segment, index, heard = false) {
    const place = this.items.findIndex(
      (item) =>
        item.kind === "paragraph" &&
        item.runs.some((run) => run.segment === segment && run.first <= index && index < run.stop),
    );
    const before = /** @type {Paragraph | undefined} */ (this.items[place]);
    if (before === undefined) return;
    const at = before.runs.findIndex((run) => run.segment === segment && index < run.stop);
    const [run, ...later] = before.runs.slice(at);
    const earlier = before.runs.slice(0, at);
    if (run.first < index) earlier.push({ ...run, stop: index });
    const last = earlier.at(-1);
    if (last === undefined) return;
    const voice = last.segment.speakerAt(last.stop - 1);
    if (heard && (voice === null || voice === segment.speakerAt(index))) return;
    const runs = [{ ...run, first: index }, ...later];
    /** @type {Paragraph} */
    const after = { ...before, start: segment.words[index].start, runs };
    before.runs = earlier;
    before.end = last.segment.words[last.stop - 1].end;
    for (const one of [before, after]) {
      this.#attribute(one);
      one.text = textIn(one);
      one.version += 1;
    }
    before.closed = true;
    this.items.splice(place + 1, 0, after);
    if (this.#open.get(segment.source) === before) this.#open.set(segment.source, after);
  }

  /** Before what another source has said later. @param {Paragraph} paragraph */
  #placeFor({ start, source }) {
    let place = this.items.length - this.ahead;
    for (; place > 0; place--) {
      const before = this.items[place - 1];
      if (before.kind === "mark" || before.source === source || before.start <= start) break;
    }
    return place;
  }

  /** The draft follows the committed words: what has been committed leaves it. @param {string} source @param {Word[]} words */
  #consume(source, words) {
    const draft = /** @type {Draft} */ (this.drafts.get(source));
    const text = words.map((word) => word.text).join("");
    const rest = draft.text.startsWith(text) ? draft.text.slice(text.length) : "";
    this.drafted(draft.key, rest, draft.start, source);
  }
}
