/** What speakers are called: as people say, else by their source, else by their number from 1. */
const COLOURS = 8; // of speakers, in the style sheets

/**
 * @typedef {number | null} Speaker counted from 0, of one source; null: not known
 * @typedef {{speaker: Speaker, text: string}} Part what one speaker says of a segment
 */

export class SpeakerNames {
  /** @type {Map<string, string>} */
  #given = new Map();
  #numbered;

  /** @param {(number: number) => string} numbered what one without a name is called */
  constructor(numbered = (number) => `Speaker ${number}`) {
    this.#numbered = numbered;
  }

  /** @param {string} source @param {number} speaker @param {string} name "" takes it back */
  set(source, speaker, name) {
    if (name === "") this.#given.delete(speakerKey(source, speaker));
    else this.#given.set(speakerKey(source, speaker), name);
  }

  /** Whether people have said it. @param {string} source @param {number} speaker */
  has(source, speaker) {
    return this.#given.has(speakerKey(source, speaker));
  }

  /** @param {{speaker: number, name: string, source?: string}[]} named */
  restore(named) {
    this.#given.clear();
    for (const { speaker, name, source = "" } of named) this.set(source, speaker, name);
  }

  /** @param {string} source @param {Speaker} speaker @returns {string} "" where nothing is known */
  of(source, speaker) {
    if (speaker === null) return source;
    const given = this.#given.get(speakerKey(source, speaker));
    return given ?? (source === "" ? this.#numbered(speaker + 1) : `${source} ${speaker + 1}`);
  }
}

/**
 * Numbers of speakers over all sessions that a transcript is made of: none of these knows the voices of
 * another one, and each counts from 0 as they are first heard.
 */
export class VoiceNumbers {
  /** @type {{session: string, source: string, first: number}[]} in order */
  #sessions = [];
  /** How many there are, by source. @type {Map<string, number>} */
  #counts = new Map();

  /** @param {string} key of a segment @param {string} source @param {number} speaker there @returns {number} here */
  number(key, source, speaker) {
    const number = this.#of(key, source, this.#counts.get(source) ?? 0).first + speaker;
    return this.learn(key, source, number);
  }

  /** Somebody has this number here already. @param {string} key @param {string} source @param {number} number */
  learn(key, source, number) {
    this.#of(key, source, number);
    this.#counts.set(source, Math.max(this.#counts.get(source) ?? 0, number + 1));
    return number;
  }

  /** Where it is whose. @param {string} source @param {number} number @returns {{session: string, speaker: number} | null} */
  placeOf(source, number) {
    const found = this.#sessions.findLast((one) => one.source === source && one.first <= number);
    return found ? { session: found.session, speaker: number - found.first } : null;
  }

  /** @param {string} key @param {string} source @param {number} first where it is a new one */
  #of(key, source, first) {
    const session = key.slice(0, key.lastIndexOf("/"));
    const known = this.#sessions.find((one) => one.session === session && one.source === source);
    if (known) return known;
    const added = { session, source, first };
    this.#sessions.push(added);
    return added;
  }
}

/** Words as parts of one speaker each. @template T @param {T[]} words @param {(word: T) => Speaker} speakerOf */
export function partsOf(words, speakerOf) {
  /** @type {{speaker: Speaker, words: T[]}[]} */
  const parts = [];
  for (const word of words) {
    const speaker = speakerOf(word);
    const last = parts.at(-1);
    if (last?.speaker === speaker) last.words.push(word);
    else parts.push({ speaker, words: [word] });
  }
  return parts;
}

/** Tells speakers apart. @param {string} source @param {Speaker} speaker */
export function speakerKey(source, speaker) {
  return speaker === null ? source : `${source}\n${speaker}`;
}

/** Which of the style sheet's colours. @param {Speaker} speaker */
export function colourOf(speaker) {
  return speaker === null ? "" : String(speaker % COLOURS);
}
