/** Copying. */
import { say } from "./words.js";

const SAID_MS = 2000;

/** Off secure origins only the old command works. @param {string} text @throws {DOMException} it is refused */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "sr-only";
  // What lies outside an open dialog cannot be selected.
  ([...document.querySelectorAll("dialog[open]")].at(-1) ?? document.body).append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  if (!done) throw new DOMException("the browser refused to copy", "NotAllowedError");
}

/** Copies, and has the button say so for a moment. @param {HTMLElement} button @param {string} text */
export async function copyBy(button, text) {
  try {
    await copy(text);
    button.textContent = say("tools.copied");
  } catch (error) {
    if (!(error instanceof DOMException)) throw error;
    button.textContent = say("tools.refused");
  }
  setTimeout(() => (button.textContent = say("tools.copy")), SAID_MS);
}
