/** The server's sessions that one on the page is made of, each from a time of its transcript on. */

/**
 * @typedef {object} Part
 * @property {string} id of the server's session
 * @property {number} at where it begins, in seconds
 * @property {boolean} stored the server keeps its transcript
 * @property {boolean} audio and its sound
 */

export class Parts {
  #store;
  /** @type {Part[]} in order */
  all;

  /** @param {import("./store.js").Store} store @param {Part[]} [all] */
  constructor(store, all = []) {
    this.#store = store;
    this.all = [...all];
  }

  /** Another one begins. @param {Part} part */
  add(part) {
    this.all.push(part);
  }

  /** The last one. */
  get last() {
    return this.all.at(-1);
  }

  /**
   * Passes corrections on to the server: to its store for the sessions that it keeps, else to those who
   * read along.
   * @param {import("./transcript.js").Transcript} transcript that has them
   * @param {import("./segment.js").Correction[]} corrections
   * @param {import("./recording.js").Recording | null} recording
   * @throws {import("./store.js").StoreError}
   */
  async correct(transcript, corrections, recording) {
    const { server } = this.#store;
    for (const { id, stored } of this.all) {
      const mine = corrections.filter(({ key }) => key.startsWith(`${id}/`));
      if (!stored) {
        for (const key of new Set(mine.map((one) => one.key))) {
          const segment = transcript.segment(key);
          if (segment) recording?.correct(segment);
        }
      }
      if (!stored || server === null) continue;
      const numbered = mine.flatMap((one) => numberedOf(transcript, one));
      if (numbered.length > 0) await server.correct(id, numbered);
    }
  }

  /**
   * Passes a speaker's name on: to the server's store, or else to those who read along.
   * @param {import("./transcript.js").Transcript} transcript
   * @param {import("./transcript.js").Named} named
   * @param {import("./recording.js").Recording | null} recording
   * @param {boolean} remember whose voice it is has agreed that it is remembered
   * @throws {import("./store.js").StoreError}
   */
  async name(transcript, { source, speaker: number, name }, recording, remember) {
    const place = transcript.voices.placeOf(source, number);
    const part = place && this.all.find(({ id }) => id === place.session);
    if (!part) return;
    const named = { speaker: place.speaker, name, ...(source && { source }) };
    if (remember) recording?.remember(part.id, named);
    if (!part.stored) recording?.name(part.id, named);
    else await this.#store.server?.name(part.id, named);
  }

  /**
   * A moment of what is recorded is marked on the server too; it stands on the page all the same.
   * @param {import("./recording.js").Recording} recording @param {number} at @param {string} text
   */
  mark(recording, at, text) {
    const place = recording.placeOf(at);
    if (place) this.#store.server?.mark(place.session, place.at, text).catch(() => {});
  }

  /** The sound that the server has of a moment. @param {number} t @returns {Promise<import("./player.js").Piece | null>} */
  async soundAt(t) {
    const at = this.all.findLastIndex((part) => part.at <= t);
    const part = this.all[at];
    const { server } = this.#store;
    if (!part?.audio || server === null) return null;
    const end = this.all[at + 1]?.at ?? Infinity;
    return { url: await server.audio(part.id), start: part.at, end };
  }

  /** Whether the server has any sound of it. */
  get audible() {
    return this.#store.server !== null && this.all.some(({ audio }) => audio);
  }
}

/**
 * A correction by the server's numbers; of refined words it stands for all live ones of the segment.
 * @param {import("./transcript.js").Transcript} transcript
 * @param {import("./segment.js").Correction} correction
 */
function numberedOf(transcript, { key, first, stop, text }) {
  const segment = transcript.segment(key);
  if (segment === undefined) return [];
  if (segment.span) return [{ ...segment.span, text: segment.text.trim() }];
  const from = segment.words[first]?.number;
  const last = segment.words[stop - 1]?.number;
  if (from === undefined || last === undefined) return [];
  return [{ first: from, stop: last + 1, text: text.trim() }];
}
