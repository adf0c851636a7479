/** The keys of the page. */

const TYPED = 'input:not([type="range"]), select, textarea';
const OPENING = ["t", "?"]; // not over captions on the whole screen

/**
 * They count while no dialog is open and nothing else takes what is typed.
 * @param {() => boolean} staged whether captions are shown over the whole screen, with keys as usual
 * @param {Record<string, () => void>} actions by key, letters in lower case
 */
export function setUpShortcuts(staged, actions) {
  addEventListener("keydown", (event) => {
    const { key, target, repeat, ctrlKey, altKey, metaKey } = event;
    const act = Object.hasOwn(actions, key.toLowerCase()) && actions[key.toLowerCase()];
    if (!act || repeat || ctrlKey || altKey || metaKey) return;
    const over = document.querySelector("dialog[open]");
    if (over && (!staged() || OPENING.includes(key.toLowerCase()))) return;
    const focused = /** @type {HTMLElement} */ (target);
    // A dialog that has just closed keeps the focus until the next frame.
    const bare = target === document.body || target === over || !focused.checkVisibility();
    // Space is the key of whatever has the focus.
    if (!bare && (key === " " || focused.matches(TYPED))) return;
    event.preventDefault();
    act();
  });
}
