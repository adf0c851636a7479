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

/** Tells speakers apart. @param {string} source @param {Speaker} speaker */
export function speakerKey(source, speaker) {
  return speaker === null ? source : `${source}\n${speaker}`;
}

/** Which of the style sheet's colours. @param {Speaker} speaker */
export function colourOf(speaker) {
  return speaker === null ? "" : String(speaker % COLOURS);
}
