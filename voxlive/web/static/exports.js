/** The transcript as files, and as text for the clipboard. */
import { toDocx, toMarkdown } from "./documents.js";
import { clock } from "./dom.js";
import { partsOf } from "./speakers.js";
import { cues, toSrt, toVtt, voicedCues } from "./subtitles.js";

/** @typedef {import("./transcript.js").Transcript} Transcript */

/** What files of a transcript are called. @param {Date} begun */
export function fileName(begun) {
  const local = new Date(begun.getTime() - begun.getTimezoneOffset() * 60_000).toISOString();
  return `voxlive-${local.slice(0, 16).replace("T", "-").replace(":", "")}`;
}

/**
 * Paragraphs between empty lines; marks stand in brackets.
 * @param {Transcript} transcript @param {boolean} [timed] with the time before each
 */
export function toText(transcript, timed = false) {
  const blocks = transcript.items.map((item) => {
    const time = timed ? `${clock(item.kind === "mark" ? item.at : item.start)} ` : "";
    if (item.kind === "mark") return `${time}[${item.text}]`;
    return `${time}${item.who === "" ? "" : `${item.who}: `}${item.text}`;
  });
  return blocks.length === 0 ? "" : `${blocks.join("\n\n")}\n`;
}

/**
 * Everything that is known, as it came: times in seconds, p null where unknown; `heard` is what was
 * recognised where a word is corrected.
 * @param {Transcript} transcript
 */
export function toJson(transcript) {
  const segments = spoken(transcript).map(({ source, who, words }, id) => ({
    id,
    start: words[0].start,
    end: words.at(-1)?.end,
    text: words.map(({ text }) => text).join(""),
    ...(source && { source }),
    ...(who !== source && { speaker: who }),
    words: words.map(({ first, stop, number, speaker, ...word }) => word),
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

/**
 * Its segments as they are corrected, parted where somebody else speaks, in the order of their starts.
 * @param {Transcript} transcript
 */
function spoken({ segments, voiced, names }) {
  const said = segments.flatMap((segment) =>
    partsOf(segment.shown(), ({ first }) => segment.speakerAt(first)).map(({ speaker, words }) => ({
      source: segment.source,
      who: names.of(segment.source, speaker),
      whole: segment.whole,
      words,
    })),
  );
  return voiced ? said.sort((one, other) => one.words[0].start - other.words[0].start) : said;
}

/** @param {Transcript} transcript */
function cuesOf(transcript) {
  const { voiced, duration } = transcript;
  return (voiced ? voicedCues : cues)(spoken(transcript), duration);
}

/**
 * `write` is given the transcript's title too.
 * @type {Record<string, {type: string, write: (transcript: Transcript, title: string) => string | Blob}>}
 */
export const FORMATS = {
  txt: { type: "text/plain", write: (transcript) => toText(transcript) },
  srt: { type: "application/x-subrip", write: (transcript) => toSrt(cuesOf(transcript)) },
  vtt: { type: "text/vtt", write: (transcript) => toVtt(cuesOf(transcript)) },
  json: { type: "application/json", write: toJson },
  md: { type: "text/markdown", write: toMarkdown },
  docx: {
    type: "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    write: toDocx,
  },
};

/**
 * Hands the transcript to the browser as a file.
 * @param {Transcript} transcript
 * @param {string} format a key of FORMATS
 * @param {string} name without its ending
 */
export function download(transcript, format, name) {
  const { type, write } = FORMATS[format];
  const content = write(transcript, name);
  const coded = typeof content === "string" ? `${type};charset=utf-8` : type;
  const url = URL.createObjectURL(new Blob([content], { type: coded }));
  const link = document.createElement("a");
  link.href = url;
  link.download = `${name}.${format}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
