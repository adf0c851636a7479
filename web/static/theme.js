/** Light or dark, set before the first paint so that nothing flashes. */
import { load } from "./settings.js";

/** @param {"system" | "light" | "dark"} theme */
export function show(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

/** Whether the page is dark now. @param {"system" | "light" | "dark"} theme */
export function isDark(theme) {
  return theme === "dark" || (theme === "system" && matchMedia("(prefers-color-scheme: dark)").matches);
}

show(load().theme);
