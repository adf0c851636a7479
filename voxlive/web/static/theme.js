/** Light or dark, how large and in which language: set before the first paint, so that nothing flashes. */
import { hold, languageOf, mark } from "./language.js";
import { load, save } from "./settings.js";

const DARK = matchMedia("(prefers-color-scheme: dark)");

/** @typedef {import("./settings.js").Settings} Settings */

/** Shows the page as the settings say. @param {Settings} settings */
export function dress({ theme, size, font, measure }) {
  const root = document.documentElement;
  if (theme === "system") delete root.dataset.theme;
  else root.dataset.theme = theme;
  root.dataset.size = size;
  root.dataset.font = font;
  root.dataset.measure = measure;
  root.toggleAttribute("data-dark", isDark(theme));
}

/** The button in the bar, and the system's own changes. @param {Settings} settings */
export function setUpTheme(settings) {
  DARK.addEventListener("change", () => dress(settings));
  document.getElementById("theme")?.addEventListener("click", () => {
    settings.theme = isDark(settings.theme) ? "light" : "dark";
    save(settings);
    dress(settings);
  });
}

/** @param {Settings["theme"]} theme */
function isDark(theme) {
  return theme === "dark" || (theme === "system" && DARK.matches);
}

const settings = load();
mark(languageOf(settings.pageLanguage));
hold();
dress(settings);
