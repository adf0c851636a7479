/** How a reader wants captions: kept in this browser, and set before the first paint. */
import { hold, languageOf, mark } from "./language.js";
import { keep, kept, load as loadPage } from "./settings.js";

const KEY = "voxlive-read";

/**
 * @typedef {object} Look
 * @property {number} size of the text in pixels
 * @property {string} colours
 * @property {string} from where a reader begins: the `start` of the session, or `now`
 * @property {boolean} drafts whether words are shown that may still change
 * @property {boolean} announce whether screen readers read new words out
 */

/** @type {Readonly<Look>} */
const DEFAULTS = Object.freeze({
  size: 28,
  colours: "system",
  from: "start",
  drafts: true,
  announce: true,
});

/** @returns {Look} */
export function loadLook() {
  const look = { ...DEFAULTS };
  const found = kept(KEY) ?? {};
  for (const [name, usual] of Object.entries(DEFAULTS)) {
    if (typeof found[name] === typeof usual) Object.assign(look, { [name]: found[name] });
  }
  return look;
}

/** @param {Look} look */
export function saveLook(look) {
  keep(KEY, look);
}

/** @param {Look} look */
export function dressReader({ size, colours }) {
  const root = document.documentElement;
  root.style.setProperty("--size", `${size}px`);
  if (colours === "light" || colours === "dark") root.dataset.theme = colours;
  else delete root.dataset.theme;
  root.dataset.colours = colours;
}

mark(languageOf(loadPage().pageLanguage));
hold();
dressReader(loadLook());
