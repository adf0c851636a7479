/**
 * The languages of the interface, and which of them the reader has. It is on the document before the
 * first paint; the texts follow from words.js.
 */

/** Each with the tag that the document has, its own name and the direction of its script. */
export const LANGUAGES = /** @type {const} */ ({
  en: { tag: "en", name: "English", dir: "ltr" },
  de: { tag: "de", name: "Deutsch", dir: "ltr" },
  fr: { tag: "fr", name: "Français", dir: "ltr" },
  es: { tag: "es", name: "Español", dir: "ltr" },
  zh: { tag: "zh-Hans", name: "简体中文", dir: "ltr" },
  ar: { tag: "ar", name: "العربية", dir: "rtl" },
});

const PATIENCE_MS = 3000; // for the texts, before the page is shown without them

/** @typedef {keyof typeof LANGUAGES} Language */

/**
 * The one that was chosen, else the first that the browser asks for.
 * @param {string} chosen "" for none
 * @returns {Language}
 */
export function languageOf(chosen) {
  const tags = [chosen, ...navigator.languages].map((tag) => tag.toLowerCase().split("-")[0]);
  return /** @type {Language} */ (tags.find((tag) => Object.hasOwn(LANGUAGES, tag)) ?? "en");
}

/** Puts it on the document. @param {Language} language */
export function mark(language) {
  document.documentElement.lang = LANGUAGES[language].tag;
  document.documentElement.dir = LANGUAGES[language].dir;
}

/**
 * Nothing is painted in English, which the page has by itself, before the texts are there, and nothing
 * can be pressed or chosen before `enable`: it would be lost.
 */
export function hold() {
  document.documentElement.inert = true;
  if (document.documentElement.lang === "en") return;
  document.documentElement.toggleAttribute("data-untranslated", true);
  setTimeout(release, PATIENCE_MS);
}

export function release() {
  document.documentElement.toggleAttribute("data-untranslated", false);
}

/** The page answers from now on. */
export function enable() {
  document.documentElement.inert = false;
}
