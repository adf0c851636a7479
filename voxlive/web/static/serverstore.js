/** Transcripts that the server keeps: /v1/sessions as a `Place` of store.js. */
import { hasKey, keyHeaders } from "./key.js";

const PAGE = 50;
const MADE_UP = /^page-[0-9a-f]{16}$/; // a name for links, which says nothing to people
const SESSIONS = new URL("../v1/sessions", import.meta.url);
const PROFILES = new URL("../v1/voice-profiles", import.meta.url);

/**
 * @typedef {import("./transcript.js").Entry} Entry
 * @typedef {import("./transcript.js").Run} Run
 * @typedef {import("./store.js").SessionInfo} SessionInfo
 * @typedef {import("./store.js").SavedSession} SavedSession
 * @typedef {import("./store.js").SessionPage} SessionPage
 * @typedef {import("./store.js").Place} Place
 * @typedef {{first: number, stop: number, text: string}} ServedCorrection
 * @typedef {{id: string, name: string | null, made_at: string}} Profile without a name: of another key
 */

/** A place cannot be used: there is no room, or no answer. */
export class StoreError extends Error {}

/** Sessions that the server keeps. @implements {Place} */
export class ServerStore {
  /** @param {string} query @param {string | null} [cursor] @returns {Promise<SessionPage>} */
  async list(query, cursor = null) {
    const url = new URL(SESSIONS);
    url.searchParams.set("limit", String(PAGE));
    if (query.trim() !== "") url.searchParams.set("q", query);
    if (cursor !== null) url.searchParams.set("cursor", cursor);
    const { sessions, next } = await this.#ask(url);
    return { sessions: sessions.map(infoOf), next };
  }

  /**
   * A session with the words of a layer. Those of `live` are those of `corrected` too: corrections are
   * entries of their own. Refined words are numbered by themselves; their segment has the numbers of the
   * live ones, for which a correction stands.
   * @param {string} id @param {string} [layer] live, corrected, refined or best
   * @returns {Promise<SavedSession | null>}
   */
  async read(id, layer = "best") {
    const found = await this.#ask(this.#at(id, "live"));
    const { model, languages, started_at, marks } = found;
    const about = { created: started_at, model, language: languages[0] ?? null };
    const runs = runsOf(id, found.words);
    const corrections = layer === "live" || layer === "refined" ? [] : correctionsOf(runs, found);
    if (found.refinement?.layer && (layer === "refined" || layer === "best")) {
      const refined = runsOf(id, (await this.#ask(this.#at(id, "refined"))).words);
      const corrected = new Set(layer === "best" ? corrections.map(({ key }) => key) : []);
      for (const [key, run] of runs) {
        if (corrected.has(key)) continue;
        const { number: first = 0 } = run.words[0];
        const { number: last = 0 } = run.words[run.words.length - 1];
        const other = refined.get(key);
        if (other) runs.set(key, { ...other, span: { first, stop: last + 1 } });
        else runs.delete(key);
      }
    }
    /** @type {Entry[]} */
    const noted = marks.map((/** @type {any} */ { at, text, kind }) => ({
      kind: "mark",
      at,
      text: text || kind,
      own: true,
    }));
    const startOf = (/** @type {any} */ entry) => entry.at ?? entry.words[0].start;
    const said = [...runs.values(), ...noted].sort((a, b) => startOf(a) - startOf(b));
    const { state = "", layer: refined = null } = found.refinement ?? {};
    const layers = ["live"];
    if (found.corrections.length > 0) layers.push("corrected");
    if (refined !== null) layers.push("refined");
    const layered = { layers, layer, refinement: state, audio: Boolean(found.audio) };
    /** @type {Entry[]} */
    const named = (found.speakers ?? []).map((/** @type {any} */ one) => {
      return { kind: "name", ...one, source: one.source ?? "" };
    });
    return { info: infoOf(found), about, entries: [...named, ...said, ...corrections], sound: [], layered };
  }

  /** @param {string} id @param {string} title */
  async rename(id, title) {
    await this.#ask(this.#at(id), { method: "PATCH", body: JSON.stringify({ title }) });
  }

  /** @param {string} id @param {number} at seconds @param {string} text */
  async mark(id, at, text) {
    const body = JSON.stringify({ marks: [{ at, text }] });
    await this.#ask(this.#at(id), { method: "PATCH", body });
  }

  /** @param {string} id @param {ServedCorrection[]} corrections of live words, by their numbers */
  async correct(id, corrections) {
    const body = JSON.stringify({ corrections });
    await this.#ask(this.#at(id), { method: "PATCH", body });
  }

  /** @param {string} id @param {object} named a speaker of the session */
  async name(id, named) {
    await this.#ask(this.#at(id), { method: "PATCH", body: JSON.stringify({ speakers: [named] }) });
  }

  /** It is recognised again from its audio, by the default model for files. @param {string} id */
  async refine(id) {
    const { state } = await this.#ask(new URL(`${this.#at(id).href}/refine`), { method: "POST", body: "{}" });
    return state;
  }

  /** How far that is: a state, and why it failed. @param {string} id */
  async refinement(id) {
    const { refinement } = await this.#ask(this.#at(id, "live"));
    return /** @type {{state: string, message: string} | null} */ (refinement);
  }

  /** Where its audio is. With a key it is fetched whole: a player cannot give one. @param {string} id */
  async audio(id) {
    const url = new URL(`${this.#at(id).href}/audio`);
    if (!hasKey()) return url.href;
    try {
      const response = await fetch(url, { headers: keyHeaders() });
      if (!response.ok) throw new StoreError(`status ${response.status}`);
      return URL.createObjectURL(await response.blob());
    } catch (error) {
      throw error instanceof StoreError ? error : new StoreError(String(error));
    }
  }

  /** @param {string} id */
  async remove(id) {
    await this.#ask(this.#at(id), { method: "DELETE" });
  }

  /** The voices that are remembered. @returns {Promise<Profile[]>} */
  async profiles() {
    const { profiles } = await this.#ask(PROFILES);
    return profiles;
  }

  /** @param {string} id of one of them */
  async forget(id) {
    await this.#ask(new URL(`${PROFILES.href}/${encodeURIComponent(id)}`), { method: "DELETE" });
  }

  /** @param {string} id @param {string} [layer] */
  #at(id, layer = "") {
    const url = new URL(`${SESSIONS.href}/${encodeURIComponent(id)}`);
    if (layer) url.searchParams.set("layer", layer);
    return url;
  }

  /** @param {URL} url @param {RequestInit} [options] @returns {Promise<any>} @throws {StoreError} */
  async #ask(url, options = {}) {
    let response;
    try {
      const headers = { "content-type": "application/json", ...keyHeaders() };
      response = await fetch(url, { cache: "no-store", ...options, headers });
    } catch (error) {
      throw new StoreError(String(error));
    }
    if (response.status === 204) return null;
    const body = await response.json().catch(() => null);
    if (!response.ok) throw new StoreError(body?.error?.message ?? `status ${response.status}`);
    return body;
  }
}

/** @param {any} found as /v1/sessions has it @returns {SessionInfo} */
function infoOf(found) {
  const { id, title, name, state, started_at, ended_at, duration, word_count, preview } = found;
  const [snippet] = found.snippets ?? [];
  return {
    id,
    place: "server",
    title: title || (MADE_UP.test(name ?? "") ? "" : name) || "",
    created: started_at,
    updated: ended_at ?? started_at,
    seconds: duration,
    wordCount: word_count,
    preview,
    language: found.languages[0] ?? "",
    running: state !== "ended",
    complete: true,
    served: [id],
    unfinished: null,
    found: snippet?.text ?? "",
    parts: [{ id, at: 0, stored: true, audio: Boolean(found.audio) }],
  };
}

/** Words as the server lists them, as runs by the key of their segment. @param {string} id @param {any[]} words */
function runsOf(id, words) {
  /** @type {Map<string, Run>} */
  const runs = new Map();
  for (const { number, segment, text, start, end, probability, original, source, speaker } of words) {
    const key = `${id}/${segment}`;
    const run = runs.get(key) ?? { kind: "words", key, words: [], whole: false };
    runs.set(key, run);
    const voice = typeof speaker === "number" ? { speaker } : {};
    const more = { ...(original && { original }), ...(source && { source }), ...voice };
    run.words.push({ text, start, end, p: probability, number, ...more });
  }
  return runs;
}

/**
 * The server's corrections, each in the segment of its first word.
 * @param {Map<string, Run>} runs of live words @param {any} found
 * @returns {import("./transcript.js").CorrectionEntry[]}
 */
function correctionsOf(runs, { corrections }) {
  /** @type {import("./transcript.js").CorrectionEntry[]} */
  const entries = [];
  for (const { first, stop, text, made_at: made } of corrections) {
    const within = ({ number = -1 }) => first <= number && number < stop;
    let source = "";
    let stands = false; // its text, in the segment of its first word; words of others go
    for (const { key, words } of runs.values()) {
      const at = words.findIndex(within);
      if (at < 0 || (stands && (words[0].source ?? "") !== source)) continue;
      source = words[0].source ?? "";
      const count = words.filter(within).length;
      entries.push({ kind: "correction", key, first: at, stop: at + count, text: stands ? "" : text, made });
      stands = true;
    }
  }
  return entries;
}
