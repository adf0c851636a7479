/** Correcting words in place: an editor over a paragraph, and which words its text has changed. */
import { make } from "./dom.js";
import { say } from "./words.js";

/**
 * @typedef {import("./transcript.js").PlacedWord} PlacedWord
 * @typedef {import("./segment.js").Correction} Correction
 * @typedef {import("./cursor.js").Place} Place
 */

export class Corrector {
  #done;
  /** @type {(() => void) | null} */
  #close = null;

  /** @param {(corrections: Correction[]) => void} done none: nothing has changed */
  constructor(done) {
    this.#done = done;
  }

  get open() {
    return this.#close !== null;
  }

  /** Puts the editor over the paragraph, with the word selected. @param {Place} place */
  show({ row, words, index }) {
    this.cancel();
    const { item, node } = row;
    if (item.kind !== "paragraph") return;
    item.closed = true; // what is said meanwhile stands below
    const shown = /** @type {HTMLElement} */ (node.lastElementChild);
    const field = /** @type {HTMLTextAreaElement} */ (make("textarea", "correct-text"));
    field.dir = "auto";
    field.rows = 1;
    field.value = item.text;
    field.setAttribute("aria-label", say("correct.label"));
    const heard = words.map(({ text, heard }) => (heard === undefined ? text : ` ${heard}`)).join("").trim();
    const save = button("accept small", say("correct.save"));
    const cancel = button("secondary small", say("button.cancel"));
    const restore = button("secondary small", say("correct.restore"));
    save.type = "submit";
    const actions = make("div", "correct-actions", save, cancel);
    const form = make("form", "correct", field, actions);
    if (heard !== item.text.trim()) {
      actions.append(restore);
      form.append(make("p", "quiet", say("correct.heard", { text: heard })));
    }
    const close = (/** @type {Correction[]} */ corrections) => {
      if (this.#close === null) return;
      this.#close = null;
      shown.hidden = false;
      form.remove();
      this.#done(corrections);
    };
    this.#close = () => close([]);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      close(changes(words, field.value));
    });
    cancel.addEventListener("click", () => close([]));
    restore.addEventListener("click", () => (field.value = heard));
    field.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.isComposing || (event.key !== "Enter" && event.key !== "Escape")) return;
      event.preventDefault();
      close(event.key === "Enter" ? changes(words, field.value) : []);
    });
    shown.hidden = true;
    node.append(form);
    field.focus();
    field.setSelectionRange(words[index].from, words[index].to);
  }

  cancel() {
    this.#close?.();
  }
}

/** @param {string} className @param {string} text */
function button(className, text) {
  const made = /** @type {HTMLButtonElement} */ (make("button", className, text));
  made.type = "button";
  return made;
}

/**
 * The corrections that make a text of these words, as few words as can be in each: words that are the same
 * keep their times.
 * @param {PlacedWord[]} words of a paragraph
 * @param {string} text
 * @returns {Correction[]}
 */
export function changes(words, text) {
  const made = new Date().toISOString();
  /** @type {Correction[]} */
  const found = [];
  const old = words.map((word) => word.text.trim());
  const given = tokens(words, text);
  const between = /\s/u.test(text.trim()) || words.some((word) => /^\s/u.test(word.text)) ? " " : "";
  for (const block of blocks(old, given)) {
    let { from, to } = block;
    let put = given.slice(block.start, block.end);
    if (from === to) {
      // Added words stand with the one before them, or with the first one.
      if (from > 0) put = [old[--from], ...put];
      else put = [...put, old[to++]];
    }
    if (from >= to || to > words.length) continue;
    let rest = put.join(between);
    for (let at = from; at < to; ) {
      const { segment } = words[at];
      let end = at;
      while (end < to && words[end].segment === segment) end++;
      const { first } = words[at];
      found.push({ key: segment.key, first, stop: words[end - 1].stop, text: rest, made });
      rest = "";
      at = end;
    }
  }
  return found;
}

/**
 * The text as words to compare. Those that begin and end it as before are found without spaces too, as
 * scripts without them need.
 * @param {PlacedWord[]} words @param {string} text
 */
function tokens(words, text) {
  let rest = text.replace(/\s+/gu, " ").trim();
  const old = words.map((word) => word.text.trim());
  const head = [];
  const tail = [];
  for (let at = 0; at < old.length && cuts(rest, old[at], words[at + 1]); at++) {
    head.push(old[at]);
    rest = rest.slice(old[at].length).trimStart();
  }
  for (let at = old.length - 1; at >= head.length && ends(rest, words[at]); at--) {
    tail.unshift(old[at]);
    rest = rest.slice(0, rest.length - old[at].length).trimEnd();
  }
  return [...head, ...rest.split(" ").filter(Boolean), ...tail];
}

/** Whether a text begins with a whole word. @param {string} text @param {string} word @param {PlacedWord | undefined} next */
function cuts(text, word, next) {
  if (word === "" || !text.startsWith(word)) return false;
  const behind = text.slice(word.length);
  return behind === "" || /^\s/u.test(behind) === /^\s/u.test(next?.text ?? " ");
}

/** Whether a text ends with a whole word. @param {string} text @param {PlacedWord} word */
function ends(text, { text: spelt }) {
  const word = spelt.trim();
  if (word === "" || !text.endsWith(word)) return false;
  const before = text.slice(0, text.length - word.length);
  return before === "" || /\s$/u.test(before) === /^\s/u.test(spelt);
}

/**
 * Where two lists differ (longest common subsequence): old ones from `from` to before `to` are new ones
 * from `start` to before `end`.
 * @param {string[]} old @param {string[]} given
 */
function blocks(old, given) {
  const width = given.length + 1;
  const common = new Uint16Array((old.length + 1) * width);
  for (let i = old.length - 1; i >= 0; i--) {
    for (let j = given.length - 1; j >= 0; j--) {
      common[i * width + j] =
        old[i] === given[j]
          ? common[(i + 1) * width + j + 1] + 1
          : Math.max(common[(i + 1) * width + j], common[i * width + j + 1]);
    }
  }
  const found = [];
  let block = null;
  for (let i = 0, j = 0; i < old.length || j < given.length; ) {
    if (i < old.length && j < given.length && old[i] === given[j]) {
      block = null;
      i++;
      j++;
      continue;
    }
    if (block === null) found.push((block = { from: i, to: i, start: j, end: j }));
    const down = i < old.length && (j === given.length || common[(i + 1) * width + j] >= common[i * width + j + 1]);
    if (down) block.to = ++i;
    else block.end = ++j;
  }
  return found;
}
