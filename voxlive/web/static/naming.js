/** A speaker gets a name, where it stands before a paragraph. */
import { make } from "./dom.js";
import { say } from "./words.js";

const LONGEST = 64; // characters, as the server takes them

/**
 * Has the reader type a name in the label's place: Enter and leaving the field take it, Escape does not.
 * @param {HTMLButtonElement} label
 * @param {boolean} remembers whether the voice can be remembered, which the reader may choose then
 * @param {(name: string, remember: boolean) => void} named "" for none
 */
export function askName(label, remembers, named) {
  const before = label.textContent ?? "";
  const field = /** @type {HTMLInputElement} */ (make("input", "name"));
  field.value = before;
  field.maxLength = LONGEST;
  field.setAttribute("aria-label", say("speaker.name", { name: before }));
  const agreed = /** @type {HTMLInputElement} */ (make("input", ""));
  agreed.type = "checkbox";
  const choice = make("label", "check", agreed, make("span", "", say("profiles.agree")));
  const box = make("div", "naming", field, ...(remembers ? [choice] : []));
  label.hidden = true;
  label.after(box);
  field.focus();
  field.select();
  let open = true;
  /** @param {boolean} taken @param {boolean} back whether the label gets the focus again */
  const close = (taken, back) => {
    if (!open) return;
    open = false;
    const name = field.value.trim();
    const remember = agreed.checked && name !== "";
    box.remove();
    label.hidden = false;
    if (back) label.focus();
    if (taken && (name !== before || remember)) named(name, remember);
  };
  // A click on the choice's text would take the focus away, and with it the field.
  choice.addEventListener("mousedown", (event) => event.preventDefault());
  box.addEventListener("focusout", ({ relatedTarget }) => {
    if (!box.contains(/** @type {Node | null} */ (relatedTarget))) close(true, false);
  });
  box.addEventListener("keydown", (event) => {
    event.stopPropagation(); // letters are keys of the page
    if (event.isComposing || (event.key !== "Enter" && event.key !== "Escape")) return;
    event.preventDefault();
    close(event.key === "Enter", true);
  });
}
