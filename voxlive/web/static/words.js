/**
 * The texts of the interface, in the reader's language: languages/xx.json, by key. In a text
 * `{name}` is a value's place or, in the page's own markup, that of the element with this
 * `data-slot`; `backticks` are around what is typed. One with a number has a text for each plural
 * form of its language. The English ones stand in the page too, and tests hold them to be the same.
 *
 * Markup names its text in `data-say`, those of its attributes in `data-say-title` and so on.
 */
import { LANGUAGES, languageOf, mark, release } from "./language.js";
import { load } from "./settings.js";

const ATTRIBUTES = ["aria-label", "title", "placeholder", "alt"];
const FOLDER = new URL("./languages/", import.meta.url);

/**
 * @typedef {import("./language.js").Language} Language
 * @typedef {keyof typeof import("./languages/en.json")} Known
 * @typedef {"live" | "capture" | "wordless" | "upload" | "broken"} Family of keys that end with a code
 * @typedef {Known | `${Family}.${string}`} Key
 * @typedef {string | Record<string, string>} Text by plural form
 */

/** @type {Language} */
let current = "en";
/** @type {Record<string, Text>} */
let texts = {};
let voxlive = "voxlive";
/** @type {Set<() => void>} */
const listeners = new Set();

/** @param {Key} key @param {Record<string, string | number>} [values] numbers are written as is usual */
export function say(key, values = {}) {
  const text = texts[key] ?? key;
  const form = typeof text === "string" ? text : (text[pluralOf(values.count)] ?? text.other);
  const typed = form.replaceAll("`voxlive ", `\`${voxlive} `);
  return typed.replace(/\{([a-z]+)\}/g, (place, name) => (name in values ? isolated(values[name]) : place));
}

/** What `voxlive` is called by where the server was started. @param {string} command */
export function setCommand(command) {
  voxlive = command;
}

/** Whether there is such a text. @param {string} key */
export function known(key) {
  return Object.hasOwn(texts, key);
}

/** The tag for Intl, of the reader's country; the digits are the ones that clocks on this page have. */
export function locale() {
  const { tag } = LANGUAGES[current];
  const regional = navigator.languages.find((one) => new RegExp(`^${tag}-[A-Z]{2}$`).test(one));
  return `${regional ?? tag}-u-nu-latn`;
}

/** What writes numbers, by locale and digits: making one takes a hundred times what using it does. */
const numbers = /** @type {Map<string, Intl.NumberFormat>} */ (new Map());

/** @param {number} value @param {number} [digits] after the point */
export function number(value, digits = 0) {
  const key = `${current} ${digits}`;
  let format = numbers.get(key);
  if (format === undefined) {
    const exact = { minimumFractionDigits: digits, maximumFractionDigits: digits };
    format = new Intl.NumberFormat(locale(), exact);
    numbers.set(key, format);
  }
  return format.format(value);
}

/** A moment with its day. @param {Date} date */
export function dateTime(date) {
  return new Intl.DateTimeFormat(locale(), { dateStyle: "medium", timeStyle: "short" }).format(date);
}

/** The time of day. @param {Date} date */
export function timeOf(date) {
  return new Intl.DateTimeFormat(locale(), { timeStyle: "medium" }).format(date);
}

/** How long ago, in words. @param {number} ms */
export function ago(ms) {
  const format = new Intl.RelativeTimeFormat(locale(), { numeric: "auto" });
  const minutes = Math.round(ms / 60_000);
  if (minutes < 1) return format.format(-Math.max(1, Math.round(ms / 1000)), "second");
  if (minutes < 60) return format.format(-minutes, "minute");
  if (minutes < 48 * 60) return format.format(-Math.round(minutes / 60), "hour");
  return format.format(-Math.round(minutes / 1440), "day");
}

/** A time span in words. @param {number} seconds */
export function span(seconds) {
  if (seconds < 90) return say("seconds", { seconds: Math.round(seconds) });
  if (seconds < 5400) return say("minutes", { minutes: Math.round(seconds / 60) });
  return say("hours", { hours: Math.round(seconds / 3600) });
}

/** A language by its tag. @param {string | null | undefined} tag */
export function languageName(tag) {
  if (!tag) return "";
  try {
    return new Intl.DisplayNames([locale()], { type: "language" }).of(tag) ?? tag;
  } catch {
    return tag;
  }
}

/** Is called when the reader has chosen another language. @param {() => void} listener */
export function onLanguage(listener) {
  listeners.add(listener);
}

/** The interface in another language; "" for the browser's. @param {string} chosen */
export async function speak(chosen) {
  const language = languageOf(chosen);
  if (language === current) return;
  await learn(language);
  for (const listener of listeners) listener();
}

/** @param {string | number | undefined} count */
function pluralOf(count) {
  return new Intl.PluralRules(locale()).select(Number(count));
}

/** In a text from right to left, what is put in keeps its own direction. @param {string | number} value */
function isolated(value) {
  const text = typeof value === "number" ? new Intl.NumberFormat(locale()).format(value) : value;
  return LANGUAGES[current].dir === "rtl" && text !== "" ? `\u2068${text}\u2069` : text;
}

/** @param {Language} language */
async function learn(language) {
  const wanted = /** @type {Language[]} */ ([...new Set(["en", language])]);
  texts = Object.assign({}, ...(await Promise.all(wanted.map(fetchTexts))));
  current = language;
  mark(language);
  translate();
}

/** @param {Language} language @returns {Promise<Record<string, Text>>} */
async function fetchTexts(language) {
  const response = await fetch(new URL(`${language}.json`, FOLDER));
  if (!response.ok) throw new Error(`${response.url}: ${response.status}`);
  return response.json();
}

/** What stands in the markup. */
function translate() {
  for (const element of elements("data-say")) fill(element, say(keyOf(element, "data-say")));
  for (const name of ATTRIBUTES) {
    for (const element of elements(`data-say-${name}`)) {
      element.setAttribute(name, say(keyOf(element, `data-say-${name}`)));
    }
  }
}

/** @param {string} attribute */
function elements(attribute) {
  return document.querySelectorAll(`[${attribute}]`);
}

/** @param {Element} element @param {string} attribute */
function keyOf(element, attribute) {
  return /** @type {Key} */ (element.getAttribute(attribute));
}

/** @param {Element} element @param {string} text */
function fill(element, text) {
  const children = /** @type {HTMLElement[]} */ ([...element.children]);
  const slots = new Map(children.map((child) => [child.dataset.slot, child]));
  if (slots.size === 0) element.textContent = text;
  else element.replaceChildren(...text.split(/\{([a-z]+)\}/).map((part, at) => (at % 2 && slots.get(part)) || part));
}

if (document.readyState === "loading") {
  await new Promise((parsed) => document.addEventListener("readystatechange", parsed, { once: true }));
}
try {
  await learn(languageOf(load().pageLanguage));
} finally {
  release();
}
