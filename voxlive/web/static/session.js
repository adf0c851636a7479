/**
 * The session on the page: its transcript, the recording that makes it, and what is kept of it.
 * Pressing Start again goes on in the same one.
 */
import { SessionAudio } from "./audio.js";
import { fileName } from "./exports.js";
import { LineState } from "./line.js";
import { continuedText, failureText, gapText, liveAdvice, unsentAdvice, warningAdvice, wordlessAdvice } from "./messages.js";
import { Parts } from "./parts.js";
import { Recording } from "./recording.js";
import { Saving } from "./saving.js";
import { goneOnWith } from "./settings.js";
import { SpeakerNames } from "./speakers.js";
import { Transcript } from "./transcript.js";
import { fill } from "./upload.js";
import { say, timeOf } from "./words.js";

const speakerNames = () => new SpeakerNames((number) => say("speaker.numbered", { number }));
const STALE_MS = 5000; // of a draft, after the connection is back

/**
 * @typedef {import("./settings.js").Settings} Settings
 * @typedef {import("./recording.js").State} State
 * @typedef {import("./store.js").SavedSession} SavedSession
 * @typedef {import("./store.js").Store} Store
 * @typedef {import("./segment.js").Correction} Correction
 * @typedef {object} SessionListener
 * @property {(state: State) => void} state
 * @property {() => void} changed the transcript
 * @property {(text: string, source?: string) => void} words that have come, for those who hear the page
 * @property {() => void} closed an utterance
 * @property {(text: string) => void} note a word beside the clock, for a moment
 * @property {(advice: import("./messages.js").Advice) => void} notice
 * @property {(kind: string) => void} unheard a kind of CaptureError
 * @property {(shared: boolean) => void} shared whether sound is shared beside the microphone
 * @property {(peak: number) => void} level
 * @property {(tag: string | null) => void} language
 * @property {() => void} waiting without a connection
 * @property {() => void} began with a new connection
 * @property {(failure: import("./link.js").Failure | null) => void} ended
 */

export class Session {
  transcript = new Transcript(speakerNames());
  duration = 0; // of everything in the transcript, in seconds
  /** @type {Recording | null} */
  recording = null;
  /** Of the files. */
  name = "";
  /** The reader has a copy of it. */
  copied = true;
  /** The server's sessions that it is made of. */
  parts;
  /** Of what the server keeps: which layers there are, and which one is shown. @type {SavedSession["layered"]} */
  layered = undefined;
  /** What of it can be heard. */
  audio;
  #store;
  #listener;
  /** Whether it is kept in this browser. */
  #keep;
  #tag = "";
  #before = 0; // words that it had before the recording
  #saving;
  #complete = true; // all parts of it are kept by the server
  #line = new LineState();
  /** @type {import("./store.js").Unfinished | null} of what is only read so far */
  #unfinished = null;

  /** @param {Store} store @param {() => boolean} keep @param {SessionListener} listener */
  constructor(store, keep, listener) {
    this.#store = store;
    this.#keep = keep;
    this.#listener = listener;
    this.#saving = new Saving(store, () => this.#present, {
      taken: () => this.#letGo(),
      failed: ({ message: why }) => {
        listener.notice({ title: say("full.title"), steps: [say("full.step", { why })] });
      },
    });
    this.parts = new Parts(store);
    this.audio = this.#audioOf(this.parts);
  }

  get id() {
    return this.#saving.id;
  }

  /** Its id on the server, the last one if it has several; "" for none. */
  get served() {
    return this.parts.last?.id ?? "";
  }

  /** Whether it can be left without losing anything. */
  get saved() {
    return this.copied || this.kept;
  }

  /** Whether all of it is in the store. */
  get kept() {
    return this.#saving.saved ?? (this.#complete && !this.transcript.empty);
  }

  /** Whether it is one that Start goes on with. */
  get interrupted() {
    return this.recording === null && this.#unfinished !== null;
  }

  /** Why there is no connection. */
  get broken() {
    return this.#line.broken;
  }

  get seconds() {
    return this.duration + (this.recording?.seconds ?? 0);
  }

  /** @param {Settings} settings @param {import("./recording.js").Interrupted | null} [interrupted] */
  record(settings, interrupted = null) {
    this.transcript.duration = Infinity;
    this.#before = this.transcript.wordCount;
    const { state, level, unheard, shared } = this.#listener;
    this.recording = new Recording(
      settings,
      this.duration,
      {
        state,
        level,
        pcm: (pcm, channels, at) => this.audio.push(pcm, channels, at),
        unheard,
        shared,
        ready: (message) => this.#ready(message),
        event: (message) => this.#event(message),
        waiting: ({ code }) => {
          this.#line.waiting(code);
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
    if (this.recording.keepsSound) this.audio.keep(this.id);
  }

  /** Goes on with one that was interrupted. @param {string} id @param {Settings} settings */
  async continue(id, settings) {
    if (!(await this.#saving.take(id))) {
      return this.#listener.notice({ title: say("taken.title"), steps: [say("taken.step")] });
    }
    const saved = await this.#saving.read(id);
    const unfinished = saved?.info.unfinished;
    if (!saved || !unfinished) return this.#saving.release();
    const { info, about, entries, sound } = saved;
    this.#show(entries, about, info);
    this.#line.goesOn();
    this.duration = unfinished.origin;
    this.#complete = info.complete;
    this.#saving.begin(info, this.transcript.entries);
    const { link } = unfinished;
    this.transcript.mark(unfinished.origin + link.captured / 16_000, continuedText(info.updated));
    this.#listener.language(info.language || null);
    this.record(goneOnWith(unfinished.settings, settings), { link, sound });
    this.#changed();
  }

  /** Shows one from the store. @param {SavedSession} saved */
  open({ info, about, entries, layered }) {
    this.#show(entries, about, info);
    this.layered = layered;
    this.duration = this.transcript.duration = info.seconds;
    this.#complete = info.complete;
    this.#unfinished = info.unfinished;
    if (info.place === "browser") this.#saving.begin(info, this.transcript.entries);
    this.copied = true;
    this.#listener.language(info.language || null);
    this.#listener.changed();
  }

  /** @param {File} file @param {import("./upload.js").Answer} answer @param {Record<string, unknown>} by */
  take(file, answer, by) {
    this.audio.file = file;
    this.name = file.name.replace(/\.[^.]*$/, "");
    this.duration = answer.duration;
    fill(this.transcript, file.name, answer, by);
    if (answer.warnings?.length) this.#listener.notice(warningAdvice(file.name, answer.warnings));
    if (this.transcript.empty) this.transcript.mark(0, say("session.silent-file", { name: file.name }));
    this.copied = this.#complete = false;
    this.#language(answer.language ?? null);
    this.#begin();
    this.#saving.title(this.name);
    this.#changed();
  }

  /** The reader marks this moment. @returns {boolean} whether there is one */
  mark() {
    if (this.recording === null) return false;
    const at = this.seconds;
    this.transcript.mark(at, say("session.marked"), true);
    this.parts.mark(this.recording, at, say("session.marked"));
    this.#changed();
    return true;
  }

  /** Another one speaks from about now on. @param {string} name @returns {boolean} whether it is recorded */
  turn(name) {
    if (this.recording === null) return false;
    const { speaking } = this.transcript;
    if (speaking) {
      this.call({ ...speaking, name });
      return true;
    }
    this.transcript.turn(name, this.seconds);
    this.#name();
    return true;
  }

  /** Who speaks stands before the first word, for everyone who reads it. @returns {string} the name, if it does now */
  #name() {
    const named = this.transcript.named();
    if (named) this.correct([named]);
    return named?.speaker ?? "";
  }

  /** Whose words are, as the server says. @param {any} message */
  #label({ ranges, source = "" }) {
    for (const { key, words, speaker } of ranges) {
      const number = this.transcript.voices.number(key, source, speaker);
      this.transcript.label({ key, first: words[0], last: words[1], speaker: number });
    }
  }

  /** Whose voice it is, as the server says: people know better. @param {any} message */
  #recognised({ key, speaker, name, source = "" }) {
    const number = this.transcript.voices.number(key, source, speaker);
    if (!this.transcript.names.has(source, number)) this.transcript.name({ source, speaker: number, name });
  }

  /**
   * What a speaker is called, for everyone who reads it.
   * @param {import("./transcript.js").Named} named
   * @param {boolean} [remember] whose voice it is has agreed that it is remembered
   */
  call(named, remember = false) {
    this.transcript.name(named);
    if (this.id !== "" || !this.#complete) this.copied = false;
    this.parts.name(this.transcript, named, this.recording, remember).catch((error) => {
      this.#complete = false;
      this.#listener.notice(unsentAdvice(error.message));
    });
    this.#changed();
  }

  /** Somebody corrects words, here and on the server. @param {Correction[]} corrections @returns what takes them back */
  correct(corrections) {
    const back = this.transcript.restoring(corrections);
    for (const one of corrections) this.transcript.correct(one);
    if (this.id !== "" || !this.#complete) this.copied = false;
    this.parts.correct(this.transcript, corrections, this.recording).catch((error) => {
      this.#complete = false;
      this.#listener.notice(unsentAdvice(error.message));
    });
    this.#changed();
    return back;
  }

  /** @param {string} id @param {string} title */
  rename(id, title) {
    if (id === this.id) this.#saving.title(title);
  }

  /** Another one begins; this one stays in the store. */
  reset() {
    void this.#saving.close();
    this.#saving.release();
    this.transcript = new Transcript(speakerNames());
    this.parts = new Parts(this.#store);
    this.audio = this.#audioOf(this.parts);
    this.layered = undefined;
    this.duration = 0;
    this.copied = this.#complete = true;
    this.#unfinished = null;
    this.#tag = "";
  }

  /** Writes the clock too, and what is needed to go on. */
  save() {
    if (document.visibilityState === "hidden") this.audio.flush();
    this.#saving.save();
  }

  /** Now and then, without an event. */
  tick() {
    const { recording } = this;
    if (recording === null) return;
    if (this.#saving.due) this.save();
    if (this.#line.caughtUp(recording.behind)) this.#listener.note(say("state.caught-up"));
  }

  /** What has been written so far is whole. */
  async flush() {
    await this.#saving.flush();
  }

  /**
   * @param {import("./transcript.js").Entry[]} entries @param {any} about
   * @param {import("./store.js").SessionInfo} info
   */
  #show(entries, about, { id, created, parts, place }) {
    this.transcript = Transcript.of(entries, about, speakerNames());
    this.parts = new Parts(this.#store, parts);
    this.name = fileName(new Date(created));
    this.audio = this.#audioOf(this.parts);
    if (place === "browser") void this.audio.open(id).then(() => this.#listener.changed());
  }

  /** @param {Parts} parts */
  #audioOf(parts) {
    return new SessionAudio(this.#store, parts, ({ message: why }) => {
      this.#listener.notice({ title: say("full.sound"), steps: [say("full.sound-step", { why })] });
    });
  }

  /** Keeps it from here on. */
  #begin() {
    if (this.#keep()) this.#saving.begin();
  }

  /** What there is to be kept. @returns {import("./journal.js").Present} */
  get #present() {
    return {
      transcript: this.transcript,
      seconds: this.seconds,
      language: this.#tag,
      complete: this.#complete,
      parts: this.parts.all,
      unfinished: this.recording?.unfinished ?? this.#unfinished,
      soundFrom: this.recording?.soundFrom,
    };
  }

  #changed() {
    this.save();
    this.#listener.changed();
  }

  /** @param {any} ready */
  #ready({ session, store = false, keep_audio = false, model, engine, device, language, languages }) {
    const now = new Date();
    this.parts.add({ id: session, at: this.duration, stored: store, audio: keep_audio });
    if (this.transcript.empty) {
      this.name = fileName(now);
      this.transcript.about = { created: now.toISOString(), engine, model, device, language };
    } else {
      const time = timeOf(now);
      this.transcript.mark(this.duration, say("session.again", { time }));
    }
    this.#complete &&= store;
    this.#begin();
    this.#saving.serves(session);
    if (this.recording?.keepsSound) this.audio.keep(this.id);
    void this.#saving.take();
    // What is recognised nobody says; but where words can be in one language only, they are.
    this.#language(languages.length === 1 ? languages[0] : language);
    this.#listener.began();
    this.#changed();
  }

  /** @param {any} message */
  #event(message) {
    const { transcript } = this;
    this.#line.broken = "";
    if (message.type === "words") {
      transcript.words(message.segment, message.words);
      this.copied = false;
      const texts = message.words.map((/** @type {{text: string}} */ { text }) => text);
      const name = this.#name();
      this.#listener.words((name && ` ${name}:`) + texts.join(""), message.source);
    } else if (message.type === "draft") {
      transcript.drafted(message.segment, message.text, this.#reached(), message.source);
      return this.#listener.changed();
    } else if (message.type === "speech_started") transcript.speechStarted(message.t, message.source);
    else if (message.type === "speakers") this.#label(message);
    else if (message.type === "speaker_named") this.#recognised(message);
    else if (message.type === "remembered") this.#listener.note(say("profiles.remembered", { name: message.name }));
    else if (message.type === "language") this.#language(message.language);
    else if (message.type === "segment") {
      transcript.dropDrafts(message.segment);
      this.#listener.closed();
    } else if (message.type === "recovered") this.#listener.note(say("state.recovered"));
    else if (message.type === "warning") {
      this.#complete &&= !message.code.startsWith("store");
      if (message.code === "vocabulary_ignored") this.#listener.note(say("terms.ignored"));
    } else if (message.type === "error") this.#listener.notice(liveAdvice(message));
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
    this.#reconnected(false);
    const dropStale = this.transcript.staleDrafts(); // What replaces them may have come meanwhile.
    setTimeout(() => {
      dropStale();
      this.#listener.changed();
    }, STALE_MS);
    this.save();
  }

  /** @param {boolean} lost whether something is missing */
  #reconnected(lost) {
    if (this.#line.back(lost)) this.#listener.note(say("state.resumed"));
  }

  /** @param {import("./link.js").Gap} gap @param {string} session that begins */
  #restarted(gap, session) {
    if (gap.lost >= 0.5) {
      this.transcript.keepDrafts((text) => say("session.unconfirmed", { text }));
      this.transcript.mark(gap.at, gapText(gap));
    }
    this.#reconnected(gap.lost >= 0.5);
    const { stored = false, audio = false } = this.parts.last ?? {};
    this.parts.add({ id: session, at: gap.at, stored, audio });
    this.#saving.serves(session);
    this.#listener.began();
    this.#changed();
  }

  /** @param {import("./link.js").Failure | null} failure @param {number} missing */
  async #ended(failure, missing) {
    const { seconds = 0, sources = 1, wordless = null } = this.recording ?? {};
    this.recording = null;
    this.audio.stop();
    this.#line.broken = "";
    this.duration += seconds;
    this.transcript.duration = this.duration;
    this.transcript.settle();
    this.#saving.release();
    const cancelled = failure?.code === "aborted";
    if (failure === null || cancelled) this.transcript.dropDrafts();
    else if (failure.code !== "capture") this.#fail(failure, missing, sources);
    this.#listener.ended(failure);
    if (failure === null && wordless && this.transcript.wordCount === this.#before) {
      this.#listener.notice(wordlessAdvice(wordless, seconds));
    }
    this.#changed();
    const kept = this.#complete && failure === null && !this.audio.kept;
    await this.#saving.finish((served) => {
      return this.recording !== null || !(this.transcript.empty || (served && kept));
    });
  }

  /** @param {import("./link.js").Failure} failure @param {number} missing @param {number} sources */
  #fail(failure, missing, sources) {
    const advice = liveAdvice(failure, sources);
    if (!this.transcript.empty || this.transcript.draft) {
      this.transcript.keepDrafts((text) => say("session.unconfirmed", { text }));
      this.transcript.mark(this.duration, failureText(advice.title, missing));
    }
    this.#listener.notice(advice);
  }

  /** Another tab goes on with it. */
  async #letGo() {
    const { recording } = this;
    if (recording) {
      this.save();
      await this.#saving.close();
      this.duration = this.seconds;
      recording.leave();
      this.recording = null;
      this.transcript.dropDrafts();
      this.#listener.notice({ title: say("moved.title"), steps: [say("moved.step")] });
      this.#listener.ended({ code: "aborted", message: "" });
      this.#listener.changed();
    }
    await this.#saving.close();
    this.copied = true;
  }
}
