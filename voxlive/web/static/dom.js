/** Small helpers for the document. Text only ever goes in as text nodes. */

/** @param {string} id @returns {any} the element, typed by its user */
export function byId(id) {
  const element = document.getElementById(id);
  if (element === null) throw new Error(`the page has no #${id}`);
  return element;
}

/**
 * @param {string} tag
 * @param {string} className
 * @param {...(Node | string)} children
 */
export function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

/**
 * As `element.hidden = hidden`, for what is called for every word: that has Chromium compute styles
 * anew where nothing changes.
 * @param {HTMLElement} element
 * @param {boolean} hidden
 */
export function hide(element, hidden) {
  if (element.hidden !== hidden) element.hidden = hidden;
}

/** Text whose parts in `backticks` become code. @param {string} text */
export function rich(text) {
  return text.split("`").map((part, index) => (index % 2 ? make("code", "", part) : part));
}

/** Seconds as 0:07, 12:07 or 1:12:07. @param {number} seconds */
export function clock(seconds) {
  const s = Math.floor(seconds);
  const two = (/** @type {number} */ n) => String(n).padStart(2, "0");
  const hours = Math.floor(s / 3600);
  const minutes = Math.floor(s / 60) % 60;
  return hours > 0 ? `${hours}:${two(minutes)}:${two(s % 60)}` : `${minutes}:${two(s % 60)}`;
}

/** Where a sentence ends, in the scripts that have a sign for it. */
export const SENTENCE_END = /[.!?…。！？؟।]["'”’»)\]]*\s*$/u;
