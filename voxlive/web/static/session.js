/**
 * The session on the page: its transcript, the recording that makes it, and the journal that keeps
 * it. Pressing Start again goes on in the same one.
 */
import { Journal } from "./journal.js";
import { gapText, liveAdvice, warningAdvice } from "./messages.js";
import { Recording } from "./recording.js";
import { SessionLock } from "./tabs.js";
import { Transcript } from "./transcript.js";
import { segmentsOf } from "./upload.js";
import { number, say, span, timeOf } from "./words.js";

const STALE_MS = 5000; // of a draft, after the connection is back
const SAVE_MS = 1000; // without words: the clock, and sound while the line is down
const AWAY_MS = 3000; // without a connection, after which it is worth saying that all has come
const NEAR_S = 2;
const SILENT_MS = 10_000; // that a connection has been when it is given up for that

/**
 * @typedef {import("./settings.js").Settings} Settings
 * @typedef {import("./recording.js").State} State
 * @typedef {import("./store.js").SavedSession} SavedSession
 * @typedef {import("./store.js").Store} Store
 * @typedef {object} SessionListener
 * @property {(state: State) => void} state
 * @property {() => void} changed the transcript
 * @property {(text: string) => void} words that have come, for those who hear the page
 * @property {() => void} closed an utterance
 * @property {(text: string) => void} note a word beside the clock, for a moment
 * @property {(advice: import("./messages.js").Advice) => void} notice
 * @property {(kind: string) => void} unheard a kind of CaptureError
 * @property {(peak: number) => void} level
 * @property {(tag: string | null) => void} language
 * @property {() => void} waiting without a connection
 * @property {() => void} began with a new connection
 * @property {(failure: import("./link.js").Failure | null) => void} ended
 */

export class Session {
  transcript = new Transcript();
  duration = 0; // of everything in the transcript, in seconds
  /** @type {Recording | null} */
  recording = null;
  /** Why there is no connection. */
  broken = "";
  /** Of the files. */
  name = "";
  /** The reader has a copy of it. */
  copied = true;
  #store;
  #listener;
  /** Whether it is kept in this browser. */
  #keep;
  #tag = "";
  /** @type {Journal | null} */
  #journal = null;
  #lock = new SessionLock(() => this.#letGo());
  #complete = true; // all parts of it are kept by the server
  #behind = false; // there may be much to be sent after the connection is back
  #awaySince = 0; // without a connection
  #savedAt = 0;
  #continued = false; // and not connected since
  /** @type {import("./store.js").Unfinished | null} of what is only read so far */
  #unfinished = null;

  /** @param {Store} store @param {() => boolean} keep @param {SessionListener} listener */
  constructor(store, keep, listener) {
    this.#store = store;
    this.#keep = keep;
    this.#listener = listener;
  }

  get id() {
    return this.#journal?.id ?? "";
  }

  /** Its id on the server, the last one if it has several; "" for none. */
  get served() {
    return this.recording?.placeOf(0)?.session ?? this.#journal?.served.at(-1) ?? "";
  }

  /** Whether it can be left without losing anything. */
  get saved() {
    return this.copied || this.kept;
  }

  /** Whether all of it is in the store. */
  get kept() {
    return this.#journal?.saved ?? (this.#complete && !this.transcript.empty);
  }

  /** Whether it is one that Start goes on with. */
  get interrupted() {
    return this.recording === null && this.#unfinished !== null;
  }

  get seconds() {
    return this.duration + (this.recording?.seconds ?? 0);
  }

  /** @param {Settings} settings @param {import("./recording.js").Interrupted | null} [interrupted] */
  record(settings, interrupted = null) {
    this.transcript.duration = Infinity;
    const { state, level, unheard } = this.#listener;
    this.recording = new Recording(
      settings,
      this.duration,
      {
        state,
        level,
        unheard,
        ready: (message) => this.#ready(message),
        event: (message) => this.#event(message),
        waiting: ({ code }) => {
          this.broken = code;
          const silent = code === "no_answer" ? SILENT_MS : 0;
          this.#awaySince ||= performance.now() - silent;
          this.save();
          this.#listener.waiting();
        },
        resumed: () => this.#resumed(),
        restarted: (gap, session) => this.#restarted(gap, session),
        ended: (failure, missing) => void this.#ended(failure, missing),
      },
      interrupted,
    );
    void this.recording.start();
  }

  /** Goes on with one that was interrupted. @param {string} id @param {Settings} settings */
  async continue(id, settings) {
    if (!(await this.#lock.take(id))) {
      const steps = [say("taken.step")];
      return this.#listener.notice({ title: say("taken.title"), steps });
    }
    // What another tab wrote last is there now.
    const { browser } = this.#store;
    const saved = await browser?.read(id);
    const unfinished = saved?.info.unfinished;
    if (!browser || !saved || !unfinished) return this.#lock.release();
    const { info, about, entries, sound } = saved;
    this.#show(entries, about, info.created);
    this.#continued = true;
    this.duration = unfinished.origin;
    this.#complete = info.complete;
    this.#listen(browser, info);
    const { link } = unfinished;
    const gap = (Date.now() - Date.parse(info.updated)) / 1000;
    const time = timeOf(new Date());
    const at = unfinished.origin + link.captured / 16_000;
    this.transcript.mark(at, say("session.continued", { time, gap: span(gap) }));
    this.#listener.language(info.language || null);
    this.record({ ...settings, ...unfinished.settings, source: settings.source }, { link, sound });
    this.#changed();
  }

  /** Shows one from the store. @param {SavedSession} saved */
  open({ info, about, entries }) {
    this.#show(entries, about, info.created);
    this.duration = this.transcript.duration = info.seconds;
    this.#complete = info.complete;
    this.#unfinished = info.unfinished;
    if (info.place === "browser" && this.#store.browser) {
      this.#listen(this.#store.browser, info);
    }
    this.copied = true;
    this.#listener.language(info.language || null);
    this.#listener.changed();
  }

  /** @param {File} file @param {import("./upload.js").Answer} answer @param {Record<string, unknown>} by */
  take(file, answer, by) {
    const { duration, language = null } = answer;
    const created = new Date().toISOString();
    this.transcript.about = { created, file: file.name, duration, ...by, language };
    this.name = file.name.replace(/\.[^.]*$/, "");
    this.duration = this.transcript.duration = duration;
    for (const [index, { words, whole }] of segmentsOf(answer).entries()) {
      this.transcript.words(`file/${index}`, words, whole);
    }
    if (answer.warnings?.length) this.#listener.notice(warningAdvice(file.name, answer.warnings));
    if (this.transcript.empty) this.transcript.mark(0, say("session.silent-file", { name: file.name }));
    this.copied = this.#complete = false;
    this.#language(language);
    this.#begin();
    this.#journal?.title(this.name);
    this.#changed();
  }

  /** The reader marks this moment. @returns {boolean} whether there is one */
  mark() {
    if (this.recording === null || this.transcript.draft === undefined) return false;
    const at = this.seconds;
    this.transcript.mark(at, say("session.marked"), true);
    const place = this.recording.placeOf(at);
    if (place && this.#store.server) {
      const noted = this.#store.server.mark(place.session, place.at, say("session.marked"));
      noted.catch(() => {}); // It stands on the page and in its files all the same.
    }
    this.#changed();
    return true;
  }

  /** @param {string} id @param {string} title */
  rename(id, title) {
    if (id === this.id) this.#journal?.title(title);
  }

  /** Another one begins; this one stays in the store. */
  reset() {
    void this.#journal?.close();
    this.#journal = null;
    this.#lock.release();
    this.transcript = new Transcript();
    this.duration = 0;
    this.copied = this.#complete = true;
    this.#unfinished = null;
    this.#tag = "";
  }

  /** Writes the clock too, and what is needed to go on. */
  save() {
    if (this.#journal === null) return;
    this.#savedAt = performance.now();
    this.#journal.touch();
  }

  /** Now and then, without an event. */
  tick() {
    const { recording } = this;
    if (recording === null) return;
    if (performance.now() - this.#savedAt > SAVE_MS) this.save();
    if (this.#behind && recording.behind < NEAR_S && this.broken === "") {
      this.#behind = false;
      this.#listener.note(say("state.caught-up"));
    }
  }

  /** What has been written so far is whole. */
  async flush() {
    await this.#journal?.flush();
  }

  /** @param {import("./transcript.js").Entry[]} entries @param {any} about @param {string} created */
  #show(entries, about, created) {
    this.transcript = Transcript.of(entries, about);
    this.nameAfter(new Date(created));
  }

  /** Names the files after a moment. @param {Date} date */
  nameAfter(date) {
    const local = new Date(date.getTime() - date.getTimezoneOffset() * 60_000).toISOString();
    this.name = `voxlive-${local.slice(0, 16).replace("T", "-").replace(":", "")}`;
  }

  /** Keeps it from here on. */
  #begin() {
    const { browser } = this.#store;
    if (this.#journal || !browser || !this.#keep()) return;
    this.#listen(browser);
  }

  /**
   * @param {import("./store.js").BrowserStore} browser
   * @param {import("./store.js").SessionInfo | null} [info] of what is shown
   */
  #listen(browser, info = null) {
    const present = () => ({
      transcript: this.transcript,
      seconds: this.seconds,
      language: this.#tag,
      complete: this.#complete,
      unfinished: this.recording?.unfinished ?? this.#unfinished,
      soundFrom: this.recording?.soundFrom,
    });
    const failed = (/** @type {Error} */ { message: why }) => {
      if (this.#journal === journal) this.#journal = null;
      const steps = [say("full.step", { why })];
      this.#listener.notice({ title: say("full.title"), steps });
    };
    const written = info ? this.transcript.entries : [];
    const journal = new Journal(browser, present, failed, info, written);
    this.#journal = journal;
  }

  #changed() {
    this.save();
    this.#listener.changed();
  }

  /** @param {any} ready */
  #ready({ session, store = false, model, engine, device, language, languages }) {
    const now = new Date();
    if (this.transcript.empty) {
      this.nameAfter(now);
      this.transcript.about = { created: now.toISOString(), engine, model, device, language };
    } else {
      const time = timeOf(now);
      this.transcript.mark(this.duration, say("session.again", { time }));
    }
    this.#complete &&= store;
    this.#begin();
    this.#journal?.serves(session);
    if (this.#journal) void this.#lock.take(this.id);
    // What is recognised nobody says; but where words can be in one language only, they are.
    this.#language(languages.length === 1 ? languages[0] : language);
    this.#listener.began();
    this.#changed();
  }

  /** @param {any} message */
  #event(message) {
    const { transcript } = this;
    this.broken = "";
    if (message.type === "words") {
      transcript.words(message.segment, message.words);
      this.copied = false;
      const texts = message.words.map((/** @type {{text: string}} */ { text }) => text);
      this.#listener.words(texts.join(""));
    } else if (message.type === "draft") {
      transcript.drafted(message.segment, message.text, this.#reached());
      return this.#listener.changed();
    } else if (message.type === "speech_started") transcript.speechStarted(message.t);
    else if (message.type === "language") this.#language(message.language);
    else if (message.type === "segment") {
      if (transcript.draft?.key === message.segment) transcript.draft = null;
      this.#listener.closed();
    } else if (message.type === "recovered") this.#listener.note(say("state.recovered"));
    else if (message.type === "warning") this.#complete &&= !message.code.startsWith("store");
    else if (message.type === "error") this.#listener.notice(liveAdvice(message));
    else return;
    this.#changed();
  }

  /** About where the engine is, in the transcript's time. */
  #reached() {
    return this.seconds - (this.recording?.behind ?? 0);
  }

  /** @param {string | null} tag */
  #language(tag) {
    this.#tag = tag ?? "";
    this.#listener.language(tag);
  }

  #resumed() {
    this.broken = "";
    this.#reconnected();
    const { draft } = this.transcript;
    setTimeout(() => {
      // What replaced it came while there was no connection.
      if (this.transcript.draft !== draft) return;
      this.transcript.draft = null;
      this.#listener.changed();
    }, STALE_MS);
    this.save();
  }

  /** @param {boolean} [lost] whether something is missing */
  #reconnected(lost = false) {
    this.#behind = performance.now() - (this.#awaySince || Infinity) > AWAY_MS;
    this.#awaySince = 0;
    if (!this.#continued && !lost) this.#listener.note(say("state.resumed"));
    this.#continued = false;
  }

  /** @param {import("./link.js").Gap} gap @param {string} session that begins */
  #restarted(gap, session) {
    this.broken = "";
    if (gap.lost >= 0.5) {
      this.transcript.keepDraft((text) => say("session.unconfirmed", { text }));
      this.transcript.mark(gap.at, gapText(gap));
    }
    this.#reconnected(gap.lost >= 0.5);
    this.#journal?.serves(session);
    this.#listener.began();
    this.#changed();
  }

  /** @param {import("./link.js").Failure | null} failure @param {number} missing */
  async #ended(failure, missing) {
    const seconds = this.recording?.seconds ?? 0;
    this.recording = null;
    this.broken = "";
    this.duration += seconds;
    this.transcript.duration = this.duration;
    this.transcript.settle();
    this.#lock.release();
    const cancelled = failure?.code === "aborted";
    if (failure === null || cancelled) this.transcript.draft = null;
    else if (failure.code !== "capture") this.#fail(failure, missing);
    this.#listener.ended(failure);
    this.#changed();
    await this.#finish(failure === null);
  }

  /**
   * What the server keeps need not be kept here too, nor what has no words.
   * @param {boolean} whole
   */
  async #finish(whole) {
    const journal = this.#journal;
    if (journal === null) return;
    const kept = this.#complete && whole && journal.served.length > 0;
    await journal.flush();
    if (!kept && !this.transcript.empty) return;
    if (this.recording !== null || this.#journal !== journal) return;
    await journal.close();
    this.#journal = null;
    this.#lock.release();
    await this.#store.browser?.remove(journal.id);
  }

  /** @param {import("./link.js").Failure} failure @param {number} missing */
  #fail(failure, missing) {
    const advice = liveAdvice(failure);
    if (!this.transcript.empty || this.transcript.draft) {
      this.transcript.keepDraft((text) => say("session.unconfirmed", { text }));
      const { title } = advice;
      const lost = say("session.failed-missing", { title, seconds: number(missing) });
      const text = missing >= 1 ? lost : say("session.failed", { title });
      this.transcript.mark(this.duration, text);
    }
    this.#listener.notice(advice);
  }

  /** Another tab goes on with it. */
  async #letGo() {
    const { recording } = this;
    if (recording) {
      this.save();
      await this.#journal?.close();
      this.duration = this.seconds;
      recording.leave();
      this.recording = null;
      this.transcript.draft = null;
      this.#listener.notice({ title: say("moved.title"), steps: [say("moved.step")] });
      this.#listener.ended({ code: "aborted", message: "" });
      this.#listener.changed();
    }
    await this.#journal?.close();
    this.#journal = null;
    this.copied = true;
  }
}
