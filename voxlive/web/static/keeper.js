/** Copying and downloading the transcript, and whether that has been done. */
import { copy } from "./clipboard.js";
import { byId } from "./dom.js";
import { download, toText } from "./exports.js";
import { say } from "./words.js";

const SAID_MS = 2000;

export class Keeper {
  #session;
  #label = byId("copy-text");

  /** @param {import("./session.js").Session} session */
  constructor(session) {
    this.#session = session;
    byId("copy").addEventListener("click", () => this.#copy());
    setUpMenu((format) => {
      if (format === "timed") return void this.#copy(true);
      download(session.transcript, format, session.name);
      session.copied = true;
    });
  }

  /** @param {boolean} wanted whether there is anything to keep */
  enable(wanted) {
    for (const id of ["copy", "download-open"]) byId(id).disabled = !wanted;
  }

  /** @param {boolean} [timed] with the time before each paragraph */
  async #copy(timed = false) {
    try {
      await copy(toText(this.#session.transcript, timed));
      this.#session.copied = true;
      this.#say("tools.copied");
    } catch (error) {
      if (!(error instanceof DOMException)) throw error;
      this.#say("tools.refused");
    }
  }

  /** A word on the button, for a moment. @param {import("./words.js").Key} key */
  #say(key) {
    this.#label.textContent = say(key);
    setTimeout(() => (this.#label.textContent = say("tools.copy")), SAID_MS);
  }
}

/** The list of formats under the download button. @param {(format: string) => void} chosen */
export function setUpMenu(chosen) {
  const menu = byId("download");
  const opener = byId("download-open");
  const list = byId("download-list");
  const open = (/** @type {boolean} */ wanted) => {
    list.hidden = !wanted;
    opener.setAttribute("aria-expanded", String(wanted));
  };
  opener.addEventListener("click", () => open(list.hidden));
  list.addEventListener("click", (/** @type {any} */ { target }) => {
    const format = target.closest("button")?.dataset.format;
    if (!format) return;
    open(false);
    opener.focus();
    chosen(format);
  });
  menu.addEventListener("keydown", (/** @type {KeyboardEvent} */ { key }) => {
    if (key !== "Escape") return;
    open(false);
    opener.focus();
  });
  document.addEventListener("pointerdown", ({ target }) => {
    if (!menu.contains(target)) open(false);
  });
  menu.addEventListener("focusout", (/** @type {FocusEvent} */ { relatedTarget }) => {
    if (relatedTarget && !menu.contains(relatedTarget)) open(false);
  });
}
