/** The transcript as files, and as text for the clipboard. */
import { cues, toSrt, toVtt } from "./subtitles.js";
import { textOf } from "./transcript.js";

/** @typedef {import("./transcript.js").Transcript} Transcript */

/** Paragraphs between empty lines; marks stand in brackets. @param {Transcript} transcript */
export function toText(transcript) {
  const blocks = transcript.items.map((item) =>
    item.kind === "mark" ? `[${item.text}]` : item.text,
  );
  return blocks.length === 0 ? "" : `${blocks.join("\n\n")}\n`;
}

/**
 * Everything that is known, as it came: times in seconds, p null where unknown.
 * @param {Transcript} transcript
 */
export function toJson(transcript) {
  const segments = transcript.segments.map((segment, id) => ({
    id,
    start: segment.words[0].start,
    end: segment.words.at(-1)?.end,
    text: textOf(segment),
    words: segment.words,
  }));
  const marks = transcript.items.filter((item) => item.kind === "mark");
  const value = {
    ...transcript.about,
    text: transcript.text,
    segments,
    marks: marks.map(({ at, text }) => ({ at, text })),
  };
  return `${JSON.stringify(value, null, 2)}\n`;
}

/** @param {Transcript} transcript */
function cuesOf({ segments, duration }) {
  return cues(segments, duration);
}

/** @type {Record<string, {type: string, write: (transcript: Transcript) => string}>} */
export const FORMATS = {
  txt: { type: "text/plain", write: toText },
  srt: { type: "application/x-subrip", write: (transcript) => toSrt(cuesOf(transcript)) },
  vtt: { type: "text/vtt", write: (transcript) => toVtt(cuesOf(transcript)) },
  json: { type: "application/json", write: toJson },
};

/**
 * Hands the transcript to the browser as a file.
 * @param {Transcript} transcript
 * @param {string} format a key of FORMATS
 * @param {string} name without its ending
 */
export function download(transcript, format, name) {
  const { type, write } = FORMATS[format];
  const url = URL.createObjectURL(new Blob([write(transcript)], { type: `${type};charset=utf-8` }));
  const link = document.createElement("a");
  link.href = url;
  link.download = `${name}.${format}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** To the clipboard. Off secure origins only the old command works. @param {string} text */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "sr-only";
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  if (!done) throw new DOMException("the browser refused to copy", "NotAllowedError");
}
