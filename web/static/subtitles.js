/**
 * Subtitles from word times: at most two lines of 42 characters, shown for 1 to 7 seconds.
 *
 * A cue ends at a pause, at the end of a sentence or of a segment, or where it would grow too long.
 * A single word that alone is over these bounds keeps its lines, as its parts have no times.
 */

const LINE = 42;
const SHORTEST_S = 1;
const LONGEST_S = 7;
const PAUSE_S = 0.7;
const SENTENCE_END = /[.!?…。！？]["'”’)\]]*$/u;
const WIDE = /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60]/u;

/**
 * @typedef {import("./live.js").Word} Word
 * @typedef {{start: number, end: number, lines: string[]}} Cue
 */

/** @param {{words: Word[]}[]} segments @returns {Cue[]} in order, without overlap */
export function cues(segments) {
  /** @type {{start: number, end: number, text: string}[]} */
  const runs = [];
  for (const { words } of segments) {
    let opens = true;
    for (const word of words) {
      const last = runs.at(-1);
      if (last === undefined || ends(last, word, opens)) {
        runs.push({ start: word.start, end: word.end, text: word.text });
      } else {
        last.text += word.text;
        last.end = Math.max(last.end, word.end);
      }
      opens = false;
    }
  }
  return timed(runs.filter((run) => run.text.trim() !== ""));
}

/** @param {{words: Word[]}[]} segments */
export function toSrt(segments) {
  return cues(segments)
    .map(({ start, end, lines }, index) => {
      const text = lines.join("\n").replaceAll("-->", "->");
      return `${index + 1}\n${clock(start, ",")} --> ${clock(end, ",")}\n${text}\n`;
    })
    .join("\n");
}

/** @param {{words: Word[]}[]} segments */
export function toVtt(segments) {
  const blocks = cues(segments).map(({ start, end, lines }) => {
    const text = lines.join("\n");
    const escaped = text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
    return `\n${clock(start, ".")} --> ${clock(end, ".")}\n${escaped}\n`;
  });
  return `WEBVTT\n${blocks.join("")}`;
}

/**
 * @param {{start: number, end: number, text: string}} run
 * @param {Word} word the next one
 * @param {boolean} opens whether it begins a segment
 */
function ends(run, word, opens) {
  if (word.start - run.end >= PAUSE_S) return true;
  if (word.end - run.start > LONGEST_S) return true;
  const enough = run.end - run.start >= SHORTEST_S;
  if (enough && (opens || SENTENCE_END.test(run.text))) return true;
  return wrap(run.text + word.text).length > 2;
}

/** @param {{start: number, end: number, text: string}[]} runs */
function timed(runs) {
  /** @type {Cue[]} */
  const out = [];
  for (const [index, run] of runs.entries()) {
    const start = Math.max(run.start, out.at(-1)?.end ?? 0);
    const next = runs[index + 1]?.start ?? Infinity;
    const wanted = Math.min(Math.max(run.end, start + SHORTEST_S), start + LONGEST_S);
    const end = next > start ? Math.min(wanted, next) : wanted;
    out.push({ start, end, lines: wrap(run.text) });
  }
  return out;
}

/**
 * Lines of at most 42 columns, two of them about equally long. Wide characters count twice.
 * @param {string} text
 */
function wrap(text) {
  const tokens = text
    .trim()
    .replace(/\s+/gu, " ")
    .split(/(?<= )/u)
    .flatMap(pieces);
  const greedy = fill(tokens, LINE);
  if (greedy.length !== 2) return greedy;
  let even = Math.ceil(width(tokens.join("")) / 2);
  while (fill(tokens, even).length > 2) even++;
  return fill(tokens, even);
}

/** @param {string[]} tokens @param {number} most */
function fill(tokens, most) {
  const lines = [""];
  for (const token of tokens) {
    const line = lines.length - 1;
    if (lines[line] !== "" && width((lines[line] + token).trimEnd()) > most) lines.push(token);
    else lines[line] += token;
  }
  return lines.map((line) => line.trimEnd());
}

/**
 * Where lines may break: wide scripts and tokens over a line break anywhere.
 * @param {string} token
 */
function pieces(token) {
  return WIDE.test(token) || width(token.trimEnd()) > LINE ? [...token] : [token];
}

/** @param {string} text */
function width(text) {
  let sum = 0;
  for (const character of text) sum += WIDE.test(character) ? 2 : 1;
  return sum;
}

/** @param {number} seconds @param {string} point */
function clock(seconds, point) {
  const ms = Math.round(seconds * 1000);
  const pad = (/** @type {number} */ n, size = 2) => String(Math.floor(n)).padStart(size, "0");
  const [hours, minutes, whole] = [ms / 3_600_000, (ms / 60_000) % 60, (ms / 1000) % 60];
  return `${pad(hours)}:${pad(minutes)}:${pad(whole)}${point}${pad(ms % 1000, 3)}`;
}
