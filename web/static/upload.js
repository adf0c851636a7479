/** A file to the transcription endpoint, and its answer as segments of words. */

const ENDPOINT = new URL("../v1/audio/transcriptions", import.meta.url);

/**
 * @typedef {import("./live.js").Word} Word
 * @typedef {{start: number, end: number, text: string}} AnsweredSegment
 * @typedef {{word: string, start: number, end: number}} AnsweredWord
 * @typedef {object} Answer OpenAI's verbose_json
 * @property {number} duration
 * @property {string | null} [language]
 * @property {AnsweredSegment[]} segments
 * @property {AnsweredWord[]} [words]
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
   * @param {string} model
   * @param {(share: number) => void} progress of the sending, 0 to 1
   * @returns {Promise<Answer | null>} null when cancelled
   * @throws {UploadError}
   */
  send(file, model, progress) {
    const form = new FormData();
    form.append("model", model);
    form.append("response_format", "verbose_json");
    form.append("timestamp_granularities[]", "word");
    form.append("timestamp_granularities[]", "segment");
    form.append("file", file);
    const request = this.#request;
    request.open("POST", ENDPOINT);
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
 * The words of each segment as they stand in its text, spaces and punctuation included. A segment
 * whose words cannot be found in it is taken as one word, as it has no finer times.
 * @param {Answer} answer
 * @returns {Word[][]}
 */
export function segmentsOf({ segments, words = [] }) {
  let next = 0;
  return segments.map((segment) => {
    const found = [];
    let cursor = 0;
    for (; next < words.length && words[next].start < segment.end; next++) {
      const { word, start, end } = words[next];
      const at = segment.text.indexOf(word.trim(), cursor);
      if (at < 0) break;
      const until = at + word.trim().length;
      found.push({ text: segment.text.slice(cursor, until), start, end, p: null });
      cursor = until;
    }
    const last = found.at(-1);
    if (last && (next === words.length || words[next].start >= segment.end)) {
      last.text += segment.text.slice(cursor);
      return found;
    }
    while (next < words.length && words[next].start < segment.end) next++;
    const { text, start, end } = segment;
    return [{ text, start, end, p: null }];
  });
}
