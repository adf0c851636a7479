/** A file to the transcription endpoint, and its answer as segments of words. */
import { keyHeaders } from "./key.js";

const ENDPOINT = new URL("../v1/audio/transcriptions", import.meta.url);

/**
 * @typedef {import("./link.js").Word} Word
 * @typedef {{start: number, end: number, text: string}} AnsweredSegment
 * @typedef {{word: string, start: number, end: number}} AnsweredWord
 * @typedef {object} Answer OpenAI's verbose_json
 * @property {number} duration
 * @property {string} text
 * @property {string | null} [language]
 * @property {AnsweredSegment[]} segments
 * @property {AnsweredWord[]} [words]
 * @property {{code: string, message: string}[]} [warnings] what of the file was not transcribed
 */

/** The file was refused; status 0 when the server was not reached. */
export class UploadError extends Error {
  /** @param {number} status @param {string} said */
  constructor(status, said) {
    super(said);
    this.status = status;
  }
}

export class Upload {
  #request = new XMLHttpRequest();

  /**
   * @param {File} file
   * @param {(share: number) => void} progress of the sending, 0 to 1
   * @returns {Promise<Answer | null>} null when cancelled
   * @throws {UploadError}
   */
  send(file, progress) {
    const form = new FormData();
    form.append("response_format", "verbose_json");
    form.append("timestamp_granularities[]", "word");
    form.append("timestamp_granularities[]", "segment");
    form.append("file", file);
    const request = this.#request;
    request.open("POST", ENDPOINT);
    for (const [name, value] of Object.entries(keyHeaders())) request.setRequestHeader(name, value);
    request.upload.onprogress = ({ loaded, total }) => progress(loaded / total);
    request.upload.onload = () => progress(1);
    return new Promise((resolve, reject) => {
      request.onabort = () => resolve(null);
      request.onerror = () => reject(new UploadError(0, ""));
      request.onload = () => {
        if (request.status === 200) resolve(JSON.parse(request.responseText));
        else reject(new UploadError(request.status, said(request.responseText)));
      };
      request.send(form);
    });
  }

  cancel() {
    this.#request.abort();
  }
}

/** The message of OpenAI's error envelope. @param {string} body */
function said(body) {
  try {
    return String(JSON.parse(body).error.message);
  } catch {
    return "";
  }
}

/**
 * A transcript has what the server made of a file.
 * @param {import("./transcript.js").Transcript} transcript @param {string} file its name
 * @param {Answer} answer @param {Record<string, unknown>} by what made it
 */
export function fill(transcript, file, answer, by) {
  const { duration, language = null } = answer;
  transcript.about = { created: new Date().toISOString(), file, duration, ...by, language };
  transcript.duration = duration;
  for (const [index, { words, whole }] of segmentsOf(answer).entries()) {
    transcript.words(`file/${index}`, words, whole);
  }
}

/**
 * The words of each segment as they stand in the text, spaces and punctuation included. A segment
 * without words of its own is taken as one word, as it has no finer times: it is `whole` then.
 * @param {Answer} answer
 * @returns {{words: Word[], whole: boolean}[]}
 */
export function segmentsOf({ text, segments, words = [] }) {
  let cursor = 0;
  const placed = words.map(({ word, start, end }) => {
    const at = text.indexOf(word, cursor);
    const until = at + word.length;
    const spelt = at < 0 ? ` ${word}` : text.slice(cursor, until);
    if (at >= 0) cursor = until;
    return { text: spelt, start, end, p: null };
  });
  let next = 0;
  return segments.map((segment) => {
    const first = next;
    while (next < placed.length && placed[next].start < segment.end) next++;
    if (next > first) return { words: placed.slice(first, next), whole: false };
    const { start, end } = segment;
    return { words: [{ text: ` ${segment.text.trim()}`, start, end, p: null }], whole: true };
  });
}
