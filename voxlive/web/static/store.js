/**
 * Transcripts that last. Two places have one interface, `Place`: this browser (IndexedDB), where the
 * page writes them as they come, and the server's history (/v1/sessions), which the server itself
 * writes. `Store` is both: a session of the server that is still written here is listed once.
 *
 * Bound: what the browser gives a site. Beyond it the page says so, and goes on unsaved.
 */
import { ServerStore, StoreError } from "./serverstore.js";

export { ServerStore, StoreError };

const NAME = "voxlive";
const VERSION = 2;
/** Samples of a row of audio at most. */
export const AUDIO_BLOCK = 4 * 16_000;
const PREVIEW_CHARS = 160;
const FOUND_CHARS = 60; // around what a search finds
const MOST_AUDIO_S = 4 * 3600; // of all sessions
/** Entries of a row: the browser takes its time for each row, whatever is in it. */
const ROW_ENTRIES = 64;
/** What is kept, by its key. */
const STORES = {
  sessions: "id",
  entries: ["session", "at"], // the first of a row
  sound: ["session", "at"], // that the server has not had
  audio: ["session", "at"], // to hear, as mu-law
};

/**
 * @typedef {import("./transcript.js").Entry} Entry
 * @typedef {import("./transcript.js").Transcript} Transcript
 * @typedef {import("./link.js").LinkState} LinkState
 * @typedef {{link: LinkState, origin: number, settings: Record<string, unknown>}} Unfinished a live
 *   session that has not come to its end, and where in the transcript it began
 * @typedef {object} SessionInfo a session as it is listed
 * @property {string} id
 * @property {"browser" | "server"} place
 * @property {string} title "" for none
 * @property {string} created ISO 8601
 * @property {string} updated ISO 8601
 * @property {number} seconds of its audio
 * @property {number} wordCount
 * @property {string} preview how it begins
 * @property {string} language "" unless known
 * @property {boolean} running it is being written, or its end has not come
 * @property {boolean} complete the server keeps all of it
 * @property {string[]} served ids of the server's sessions that it is made of
 * @property {import("./parts.js").Part[]} [parts] the same, with what the server has of them
 * @property {Unfinished | null} unfinished
 * @property {string} found what a search has found, and around it
 * @typedef {object} SavedSession
 * @property {SessionInfo} info
 * @property {Record<string, unknown>} about
 * @property {Entry[]} entries
 * @property {Int16Array[]} sound that has not been recognised, up to where recording ended
 * @property {{layers: string[], layer: string, refinement: string, audio: boolean}} [layered] of the
 *   server's: the layers that there are, the one that this is, how far refining it is
 * @typedef {{sessions: SessionInfo[], next: string | null, problem?: string}} SessionPage `next`:
 *   cursor of the next one; `problem`: why those of a place are not there
 * @typedef {object} Place where sessions are
 * @property {(query: string, cursor?: string | null) => Promise<SessionPage>} list the newest first;
 *   with a query those that have all of its words
 * @property {(id: string) => Promise<SavedSession | null>} read
 * @property {(id: string, title: string) => Promise<void>} rename
 * @property {(id: string) => Promise<void>} remove
 */

/** Sessions in this browser. @implements {Place} */
export class BrowserStore {
  #database;

  /** @param {IDBDatabase} database */
  constructor(database) {
    this.#database = database;
    // Another tab has a newer page: it cannot begin before this one lets go.
    database.onversionchange = () => database.close();
  }

  /** @returns {Promise<BrowserStore | null>} null where the browser keeps nothing for this page */
  static async open() {
    try {
      const request = indexedDB.open(NAME, VERSION);
      request.onupgradeneeded = () => {
        const database = request.result;
        for (const [name, keyPath] of Object.entries(STORES)) {
          if (!database.objectStoreNames.contains(name)) database.createObjectStore(name, { keyPath });
        }
      };
      return new BrowserStore(await result(request));
    } catch {
      return null;
    }
  }

  /**
   * Writes a session and what of it is new, all or nothing.
   * @param {SessionInfo & {about: Record<string, unknown>}} info
   * @param {[number, Entry][]} entries by their place
   * @param {{at: number, pcm: Int16Array}[]} sound by its position
   * @throws {StoreError}
   */
  async write(info, entries, sound) {
    const session = info.id;
    await this.#change(["sessions", "entries", "sound"], (of) => {
      of("sessions").put(info);
      for (const [first, added] of byRow(entries)) {
        const place = IDBKeyRange.bound([session, first], [session, first + ROW_ENTRIES], false, true);
        const rows = of("entries").getAll(place);
        rows.onsuccess = () => {
          const all = entriesOf(rows.result, first);
          for (const [at, entry] of added) all[at - first] = entry;
          of("entries").delete(place);
          of("entries").put({ session, at: first, json: JSON.stringify(all) });
        };
      }
      for (const { at, pcm } of sound) of("sound").put({ session, at, pcm });
      const needed = info.unfinished ? info.unfinished.link.kept - 16_000 : Infinity;
      if (needed > 0) of("sound").delete(IDBKeyRange.bound([session, 0], [session, needed]));
    });
  }

  /** @param {string} query @returns {Promise<SessionPage>} */
  async list(query) {
    const all = await this.#get((of) => of("sessions").getAll());
    const sessions = newestFirst(all);
    const wanted = folded(query).split(/\s+/).filter(Boolean);
    if (wanted.length === 0) return { sessions, next: null };
    const found = [];
    for (const info of sessions) {
      const text = `${info.title} ${textIn(await this.#entries(info.id))}`;
      const plain = folded(text);
      if (!wanted.every((word) => plain.includes(word))) continue;
      found.push({ ...info, found: around(text, plain.indexOf(wanted[0])) });
    }
    return { sessions: found, next: null };
  }

  /** @param {string} id @returns {Promise<SavedSession | null>} */
  async read(id) {
    const info = await this.#get((of) => of("sessions").get(id));
    if (info === undefined) return null;
    const rows = await this.#get((of) => of("sound").getAll(range(id)));
    const { captured = 0, channels = 1 } = info.unfinished?.link ?? {};
    const sound = upTo(captured, rows, channels);
    return { info, about: info.about, entries: await this.#entries(id), sound };
  }

  /** @param {string} id @param {string} title */
  async rename(id, title) {
    const info = await this.#get((of) => of("sessions").get(id));
    if (info) await this.#change(["sessions"], (of) => of("sessions").put({ ...info, title }));
  }

  /** @param {string} id */
  async remove(id) {
    await this.#change(Object.keys(STORES), (of) => {
      of("sessions").delete(id);
      for (const name of ["entries", "sound", "audio"]) of(name).delete(range(id));
    });
  }

  /**
   * Keeps sound of a session to be heard again. Beyond the bound that of the session goes that was
   * written to least lately, then the beginning of this one's.
   * @param {string} session @param {number} at sample of its clock at 16 kHz
   * @param {Uint8Array} mulaw a few seconds; the same place may be written again with more
   * @throws {StoreError}
   */
  async keepAudio(session, at, mulaw) {
    await this.#change(["audio"], (of) => of("audio").put({ session, at, mulaw }));
    if (at + mulaw.length <= AUDIO_BLOCK) return;
    const blocks = await this.#get((of) => of("audio").count());
    if (blocks * AUDIO_BLOCK <= MOST_AUDIO_S * 16_000) return;
    const others = newestFirst(await this.#get((of) => of("sessions").getAll())).reverse();
    for (const { id } of others) {
      if (id === session || !(await this.hasAudio(id))) continue;
      return this.#change(["audio"], (of) => of("audio").delete(range(id)));
    }
    const first = at - MOST_AUDIO_S * 16_000;
    const old = IDBKeyRange.bound([session, 0], [session, Math.max(0, first)]);
    await this.#change(["audio"], (of) => of("audio").delete(old));
  }

  /** @param {string} session @returns {Promise<boolean>} */
  async hasAudio(session) {
    return (await this.#get((of) => of("audio").count(range(session)))) > 0;
  }

  /**
   * The sound that is kept of a part of a session.
   * @param {string} session @param {number} from @param {number} to samples
   * @returns {Promise<{at: number, mulaw: Uint8Array}[]>} in order
   */
  async audio(session, from, to) {
    const keys = IDBKeyRange.bound([session, Math.max(0, from - AUDIO_BLOCK)], [session, to], false, true);
    return this.#get((of) => of("audio").getAll(keys));
  }

  /** @param {string} id @returns {Promise<Entry[]>} */
  async #entries(id) {
    const rows = await this.#get((of) => of("entries").getAll(range(id)));
    return entriesOf(rows, 0);
  }

  /** @param {(of: (name: string) => IDBObjectStore) => IDBRequest} ask @returns {Promise<any>} */
  async #get(ask) {
    try {
      const transaction = this.#database.transaction(Object.keys(STORES), "readonly");
      return await result(ask((name) => transaction.objectStore(name)));
    } catch (error) {
      throw new StoreError(String(error));
    }
  }

  /** @param {string[]} names @param {(of: (name: string) => IDBObjectStore) => void} change */
  async #change(names, change) {
    try {
      const transaction = this.#database.transaction(names, "readwrite");
      const done = new Promise((resolve, reject) => {
        transaction.oncomplete = () => resolve(undefined);
        transaction.onabort = () => reject(transaction.error);
      });
      change((name) => transaction.objectStore(name));
      await done;
    } catch (error) {
      throw new StoreError(String(error));
    }
  }
}

/** Both places; either may be missing. @implements {Place} */
export class Store {
  #browser;
  #server = new ServerStore();
  /** Whether the server keeps sessions and this page may read them. */
  served = false;

  /** @param {BrowserStore | null} browser */
  constructor(browser) {
    this.#browser = browser;
  }

  /** The page writes here. */
  get browser() {
    return this.#browser;
  }

  /** The server's history, if it has one. */
  get server() {
    return this.served ? this.#server : null;
  }

  /** @param {string} query @param {string | null} [cursor] @returns {Promise<SessionPage>} */
  async list(query, cursor = null) {
    const here = (await this.#browser?.list(query))?.sessions ?? [];
    let there;
    let problem = "";
    try {
      there = await this.server?.list(query, cursor);
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
      problem = error.message;
    }
    const written = new Set(here.flatMap(({ served }) => served));
    const others = there?.sessions.filter(({ id }) => !written.has(id)) ?? [];
    const all = cursor === null ? [...here, ...others] : others;
    return { sessions: newestFirst(all), next: there?.next ?? null, problem };
  }

  /** @param {string} id @param {string} [layer] of the server's */
  async read(id, layer) {
    return (await this.#browser?.read(id)) ?? (await this.server?.read(id, layer)) ?? null;
  }

  /** @param {string} id @param {string} title */
  async rename(id, title) {
    const here = await this.#browser?.read(id);
    await (here ? this.#browser : this.server)?.rename(id, title);
  }

  /** With what the server has of it. @param {string} id */
  async remove(id) {
    const here = await this.#browser?.read(id);
    for (const one of here ? here.info.served : [id]) await this.server?.remove(one);
    if (here) await this.#browser?.remove(id);
  }

  /** The newest one whose end has not come. @returns {Promise<SessionInfo | null>} */
  async unfinished() {
    const { sessions } = (await this.#browser?.list("")) ?? { sessions: [] };
    return sessions.find((one) => one.unfinished !== null && one.running) ?? null;
  }
}

/** @param {SessionInfo[]} sessions */
function newestFirst(sessions) {
  return sessions.sort((one, other) => (one.updated < other.updated ? 1 : -1));
}

/** How a transcript begins. @param {Transcript} transcript */
export function previewOf({ segments }) {
  let text = "";
  for (const segment of segments) {
    text += segment.source === "" ? segment.text : ` ${segment.text.trim()}`;
    if (text.length > PREVIEW_CHARS) break;
  }
  return text.trim().slice(0, PREVIEW_CHARS);
}

/** Entries by the first place of their row. @param {[number, Entry][]} entries */
function byRow(entries) {
  /** @type {Map<number, [number, Entry][]>} */
  const rows = new Map();
  for (const [at, entry] of entries) {
    const first = at - (at % ROW_ENTRIES);
    rows.set(first, [...(rows.get(first) ?? []), [at, entry]]);
  }
  return rows;
}

/**
 * The entries of rows, the first of which has this place. A row of an older page has one, as it is.
 * @param {{at: number, json?: string, entry?: Entry}[]} rows @param {number} first
 * @returns {Entry[]}
 */
function entriesOf(rows, first) {
  /** @type {Entry[]} */
  const entries = [];
  for (const { at, json, entry } of rows) {
    const found = json === undefined ? [entry] : JSON.parse(json);
    for (let n = 0; n < found.length; n++) entries[at - first + n] = found[n];
  }
  return entries;
}

/** @param {Entry[]} entries */
function textIn(entries) {
  const textOf = (/** @type {Entry} */ entry) => {
    if (entry.kind === "words") return entry.words.map(({ text }) => text).join("");
    return "text" in entry ? ` ${entry.text} ` : "";
  };
  return entries.map(textOf).join("");
}

/** As it is compared, each character in its place. @param {string} text */
function folded(text) {
  const plain = (/** @type {string} */ c) =>
    c.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase().slice(0, c.length) || c;
  return Array.from(text, plain).join("");
}

/** @param {string} text @param {number} at */
function around(text, at) {
  const from = Math.max(0, at - FOUND_CHARS);
  const cut = text.slice(from, at + FOUND_CHARS);
  return `${from > 0 ? "…" : ""}${cut.trim()}${at + FOUND_CHARS < text.length ? "…" : ""}`;
}

/**
 * The sound that goes without a gap up to a position.
 * @param {number} end @param {{at: number, pcm: Int16Array}[]} rows @param {number} channels
 * @returns {Int16Array[]}
 */
function upTo(end, rows, channels) {
  const sound = [];
  for (const { at, pcm } of rows.reverse()) {
    if (at + pcm.length / channels !== end) break;
    sound.unshift(pcm);
    end = at;
  }
  return sound;
}

/** All rows of a session. @param {string} id */
function range(id) {
  return IDBKeyRange.bound([id, 0], [id, Infinity]);
}

/** @template T @param {IDBRequest<T>} request @returns {Promise<T>} */
function result(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
