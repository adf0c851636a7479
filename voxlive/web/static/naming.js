/** A speaker gets a name, where it stands before a paragraph. */
import { make } from "./dom.js";
import { say } from "./words.js";

const LONGEST = 64; // characters, as the server takes them

/**
 * Has the reader type a name in the label's place: Enter and leaving the field take it, Escape does not.
 * @param {HTMLButtonElement} label @param {(name: string) => void} named "" for none
 */
export function askName(label, named) {
  const before = label.textContent ?? "";
  const field = /** @type {HTMLInputElement} */ (make("input", "naming"));
  field.value = before;
  field.maxLength = LONGEST;
  field.setAttribute("aria-label", say("speaker.name", { name: before }));
  label.hidden = true;
  label.after(field);
  field.focus();
  field.select();
  let open = true;
  /** @param {boolean} taken @param {boolean} back whether the label gets the focus again */
  const close = (taken, back) => {
    if (!open) return;
    open = false;
    const name = field.value.trim();
    field.remove();
    label.hidden = false;
    if (back) label.focus();
    if (taken && name !== before) named(name);
  };
  field.addEventListener("blur", () => close(true, false));
  field.addEventListener("keydown", (event) => {
    event.stopPropagation(); // letters are keys of the page
    if (event.isComposing || (event.key !== "Enter" && event.key !== "Escape")) return;
    event.preventDefault();
    close(event.key === "Enter", true);
  });
}
