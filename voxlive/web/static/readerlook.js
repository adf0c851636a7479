/** How a reader wants captions: kept in this browser, and set before the first paint. */
import { hold, languageOf, mark } from "./language.js";
import { load as loadPage } from "./settings.js";

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
  try {
    const kept = JSON.parse(localStorage.getItem(KEY) ?? "{}") ?? {};
    for (const [name, usual] of Object.entries(DEFAULTS)) {
      if (typeof kept[name] === typeof usual) Object.assign(look, { [name]: kept[name] });
    }
  } catch {
    // Storage is switched off for this page, or holds something else.
  }
  return look;
}

/** @param {Look} look */
export function saveLook(look) {
  try {
    localStorage.setItem(KEY, JSON.stringify(look));
  } catch {
    // The choice lasts until the page is closed.
  }
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
