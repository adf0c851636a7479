/**
 * Subtitles from word times: at most two lines of 42 characters, of which wide ones count twice.
 *
 * The rules are those of the server's runners/subtitles.py, so that a transcript has the same cues
 * wherever it is saved; tests/golden/subtitles.json holds cues that both make.
 */

const LINE = 42;
const LINES = 2;
const SHORTEST_MS = 1000;
const LONGEST_MS = 7000;
const PAUSE_MS = 1000;
const BREATH_MS = 250;
const GAP_MS = 80; // two frames at 25 a second, by which an eye sees that a cue is another one
const READ_MS = 50; // a character, at 20 a second
const SENTENCE_END = /[.!?…。！？؟।]["'”’»)\]]*$/u;
const CLAUSE_END = /[,;:—、，；：،]["'”’»)\]]*$/u;
// JavaScript's and Python's idea of white space together.
const SPACE = /[\s\x1c-\x1f\x85\ufeff]+/gu;
const ARROW = /-{2,}>/gu;
const WIDE =
  /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\u{1f300}-\u{1faff}\u{20000}-\u{3fffd}]/u;
// What a cue and the place where it breaks cost when they are weighed against each other.
const CUE = 10;
const BRIEF = 10;
const CLAUSE = 3;
const ANYWHERE = 15;

/**
 * @typedef {import("./link.js").Word} Word
 * @typedef {{words: Word[], whole?: boolean}} Segment `whole`: its one word is all that was said in
 *   it, by a model that knows no words' times, and stays as long as that took
 * @typedef {{start: number, end: number, lines: string[], voice?: string}} Cue times in milliseconds;
 *   `voice`: who speaks, where there are several, whose cues may overlap
 */

/**
 * The cues of everyone who speaks with their name as their voice, in the order of their starts.
 * @param {(Segment & {who: string})[]} segments
 * @param {number} [duration]
 * @returns {Cue[]}
 */
export function voicedCues(segments, duration = Infinity) {
  const byVoice = Map.groupBy(segments, ({ who }) => who);
  return [...byVoice]
    .flatMap(([voice, spoken]) => cues(spoken, duration).map((cue) => ({ ...cue, voice })))
    .sort((one, other) => one.start - other.start);
}

/**
 * @param {Segment[]} segments
 * @param {number} [duration] of the audio in seconds, which no cue outlasts
 * @returns {Cue[]} in order, without overlap; none spans two segments or a pause of 1 s
 */
export function cues(segments, duration = Infinity) {
  const groups = segments.flatMap(({ words, whole = false }) =>
    splitAtPauses(words)
      .flatMap(cut)
      .map((group) => ({ group, whole })),
  );
  const heard = Math.trunc(duration * 1000);
  /** @type {Cue[]} */
  const found = [];
  for (const [index, { group, whole }] of groups.entries()) {
    const lines = layOut(group);
    if (lines.join("") === "") continue;
    const start = Math.max(toMs(group[0].start), found.at(-1)?.end ?? -Infinity);
    const read = READ_MS * lines.reduce((sum, line) => sum + width(line), 0);
    let end = Math.max(toMs(group[group.length - 1].end), start + SHORTEST_MS, start + read);
    if (!whole) end = Math.min(end, start + LONGEST_MS);
    const following = index + 1 < groups.length ? toMs(groups[index + 1].group[0].start) : Infinity;
    // A cue that has no time to spare lasts until the next one comes.
    const gap = following - start > 2 * GAP_MS ? GAP_MS : 0;
    for (const last of [following - gap, heard]) end = Math.max(Math.min(end, last), start + 1);
    found.push({ start, end, lines });
  }
  return found;
}

/** Its text knows no escapes: an arrow in it loses its length. @param {Cue[]} found */
export function toSrt(found) {
  return found
    .map(({ start, end, lines, voice = "" }, index) => {
      const text = `${voice && `${voice}: `}${lines.join("\n")}`.replace(ARROW, "->");
      return `${index + 1}\n${clock(start, ",")} --> ${clock(end, ",")}\n${text}\n\n`;
    })
    .join("");
}

/** @param {Cue[]} found */
export function toVtt(found) {
  const escape = (/** @type {string} */ text) =>
    text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const blocks = found.map(({ start, end, lines, voice = "" }) => {
    const spoken = `${voice && `<v ${escape(voice)}>`}${escape(lines.join("\n"))}`;
    return `${clock(start, ".")} --> ${clock(end, ".")}\n${spoken}\n\n`;
  });
  return `WEBVTT\n\n${blocks.join("")}`;
}

/** @param {Word[]} words @returns {Word[][]} */
function splitAtPauses(words) {
  /** @type {Word[][]} */
  const runs = [];
  for (const [at, word] of words.entries()) {
    if (at === 0 || gapMs(words, at) >= PAUSE_MS) runs.push([]);
    runs[runs.length - 1].push(word);
  }
  return runs;
}

/**
 * The cheapest way to cut a run of words into cues (shortest path over the word gaps).
 * @param {Word[]} words
 * @returns {Word[][]}
 */
function cut(words) {
  const ends = [0];
  for (const { text } of words) ends.push(ends[ends.length - 1] + width(text));
  const best = [{ cost: 0, start: 0 }];
  for (let stop = 1; stop <= words.length; stop++) {
    let chosen = { cost: Infinity, start: 0 };
    for (let start = stop - 1; start >= 0; start--) {
      if (start < stop - 1 && !fits(words, ends, start, stop)) break;
      const total = best[start].cost + cost(words, start, stop);
      if (total <= chosen.cost) chosen = { cost: total, start };
    }
    best.push(chosen);
  }
  const groups = [];
  for (let stop = words.length; stop > 0; stop = best[stop].start) {
    groups.push(words.slice(best[stop].start, stop));
  }
  return groups.reverse();
}

/**
 * One line, or two of about the same length, broken after a clause if one ends there.
 * @param {Word[]} words
 */
function layOut(words) {
  const whole = join(words);
  if (width(whole) <= LINE) return [whole];
  let chosen = { cost: Infinity, pair: [""] };
  for (let at = 1; at < words.length; at++) {
    const pair = [join(words.slice(0, at)), join(words.slice(at))];
    const longest = Math.max(...pair.map(width));
    const total = 5 * longest + 4 * breakCost(words, at);
    if (longest <= LINE && total < chosen.cost) chosen = { cost: total, pair };
  }
  return chosen.cost < Infinity ? chosen.pair : wrap(whole);
}

/**
 * Whether these words are short enough for a cue and fill no more than its lines.
 * @param {Word[]} words @param {number[]} ends @param {number} start @param {number} stop
 */
function fits(words, ends, start, stop) {
  if (toMs(words[stop - 1].end) - toMs(words[start].start) > LONGEST_MS) return false;
  for (let line = 0; line < LINES; line++) {
    const reach = ends[start] + lead(words[start]) + LINE;
    let following = start;
    while (following + 1 < ends.length && ends[following + 1] <= reach) following++;
    if (following >= stop) return true;
    if (following === start) return false;
    start = following;
  }
  return false;
}

/**
 * The price of the cue, more if it is brief, and of the place where it breaks.
 * @param {Word[]} words @param {number} start @param {number} stop
 */
function cost(words, start, stop) {
  const lasts = toMs(words[stop - 1].end) - toMs(words[start].start);
  const brief = lasts < SHORTEST_MS ? BRIEF : 0;
  return CUE + brief + (stop < words.length ? breakCost(words, stop) : 0);
}

/** @param {Word[]} words @param {number} at */
function breakCost(words, at) {
  const before = words[at - 1].text;
  if (SENTENCE_END.test(before)) return 0;
  if (CLAUSE_END.test(before) || gapMs(words, at) >= BREATH_MS) return CLAUSE;
  return ANYWHERE;
}

/**
 * Greedy lines; a run without a place to break, as in an unspaced script, is cut anywhere.
 * @param {string} text
 */
function wrap(text) {
  const lines = [""];
  for (const word of text.split(" ")) {
    const last = lines[lines.length - 1];
    const joined = last === "" ? word : `${last} ${word}`;
    if (width(joined) <= LINE) {
      lines[lines.length - 1] = joined;
      continue;
    }
    let line = "";
    for (const character of word) {
      if (line !== "" && width(line + character) > LINE) {
        lines.push(line);
        line = "";
      }
      line += character;
    }
    lines.push(line);
  }
  return lines.filter((line) => line !== "");
}

/** @param {string} text */
function width(text) {
  let sum = 0;
  for (const character of text) sum += WIDE.test(character) ? 2 : 1;
  return sum;
}

/** @param {Word[]} words */
function join(words) {
  const text = words.map((word) => word.text).join("");
  return text.replace(SPACE, " ").replace(/^ | $/gu, "");
}

/** The columns of the space that a word begins with. @param {Word} word */
function lead({ text }) {
  return width(text.slice(0, text.search(/[^\s\x1c-\x1f\x85\ufeff]|$/u)));
}

/** @param {Word[]} words @param {number} at */
function gapMs(words, at) {
  return toMs(words[at].start) - toMs(words[at - 1].end);
}

/** @param {number} seconds */
function toMs(seconds) {
  return Math.floor(seconds * 1000 + 0.5);
}

/** @param {number} ms @param {string} point */
function clock(ms, point) {
  const pad = (/** @type {number} */ n, size = 2) => String(Math.floor(n)).padStart(size, "0");
  const [hours, minutes, whole] = [ms / 3_600_000, (ms / 60_000) % 60, (ms / 1000) % 60];
  return `${pad(hours)}:${pad(minutes)}:${pad(whole)}${point}${pad(ms % 1000, 3)}`;
}
