/**
 * What this browser keeps of the session on the page: the journal that writes it, and the lock by which
 * one tab alone goes on with it.
 */
import { Journal } from "./journal.js";
import { SessionLock } from "./tabs.js";

const SAVE_MS = 1000; // without words: the clock, and sound while the line is down

/**
 * @typedef {import("./store.js").SessionInfo} SessionInfo
 * @typedef {object} SavingListener
 * @property {() => Promise<void>} taken another tab goes on with the session
 * @property {(error: Error) => void} failed nothing is written any more
 */

export class Saving {
  #store;
  #present;
  #listener;
  /** @type {Journal | null} */
  #journal = null;
  #lock;
  #savedAt = 0;

  /**
   * @param {import("./store.js").Store} store
   * @param {() => import("./journal.js").Present} present what is to be written
   * @param {SavingListener} listener
   */
  constructor(store, present, listener) {
    this.#store = store;
    this.#present = present;
    this.#listener = listener;
    this.#lock = new SessionLock(listener.taken);
  }

  /** Of what is kept here, "" if nothing is. */
  get id() {
    return this.#journal?.id ?? "";
  }

  /** Whether all is written; undefined where nothing is. */
  get saved() {
    return this.#journal?.saved;
  }

  /** The browser's place for sessions. */
  get #browser() {
    return this.#store.browser;
  }

  /** Keeps it from here on, or one that is there already. @param {SessionInfo} [info] @param {import("./transcript.js").Entry[]} [entries] */
  begin(info, entries = []) {
    if (this.#browser === null || (this.#journal && !info)) return;
    const failed = (/** @type {Error} */ error) => {
      if (this.#journal === journal) this.#journal = null;
      this.#listener.failed(error);
    };
    const journal = new Journal(this.#browser, this.#present, failed, info, entries);
    this.#journal = journal;
  }

  /** This tab has the session, and no other one. @param {string} [id] @returns {Promise<boolean>} whether it has */
  async take(id = this.id) {
    return id === "" || this.#lock.take(id);
  }

  /** Another tab may have it. */
  release() {
    this.#lock.release();
  }

  /** What another tab wrote last. @param {string} id */
  async read(id) {
    return (await this.#browser?.read(id)) ?? null;
  }

  /** @param {string} title */
  title(title) {
    this.#journal?.title(title);
  }

  /** A session of the server is a part of it. @param {string} session */
  serves(session) {
    this.#journal?.serves(session);
  }

  /** Writes what there is now. */
  save() {
    if (this.#journal === null) return;
    this.#savedAt = performance.now();
    this.#journal.touch();
  }

  /** Whether nothing has been written for a while. */
  get due() {
    return performance.now() - this.#savedAt > SAVE_MS;
  }

  /** What has been written so far is whole. */
  async flush() {
    await this.#journal?.flush();
  }

  /** It is kept as it is; what follows is not it. */
  async close() {
    const journal = this.#journal;
    this.#journal = null;
    await journal?.close();
  }

  /**
   * It is over: what the server keeps need not be kept here too, nor what has no words.
   * @param {(served: boolean) => boolean} wanted whether it stays, known once all is written; `served`: a
   *   session of the server is a part of it
   */
  async finish(wanted) {
    const journal = this.#journal;
    if (journal === null) return;
    await journal.flush();
    if (wanted(journal.served.length > 0) || this.#journal !== journal) return;
    await this.close();
    this.release();
    await this.#browser?.remove(journal.id);
  }
}
