/** Brings the parts of the page together. */
import { Developers } from "./developers.js";
import { Dock } from "./dock.js";
import { byId, hide } from "./dom.js";
import { Engine, spoken, withModel } from "./engine.js";
import { setUpFiles } from "./files.js";
import { Keeper } from "./keeper.js";
import { askForKey, forgetKey, hasKey } from "./key.js";
import { enable } from "./language.js";
import { captureAdvice, insecureAdvice } from "./messages.js";
import {
  confirmed,
  EngineCard,
  LanguageChoice,
  Notice,
  offerModels,
  offerSpeeds,
  setUpSettings,
  showStore,
} from "./panels.js";
import { ProgressLine } from "./progressline.js";
import { DEMO } from "./recording.js";
import { setUpProfiles } from "./profiles.js";
import { Reading } from "./reading.js";
import { Session } from "./session.js";
import { ContinueCard, SessionList } from "./sessions.js";
import { linesOf, load } from "./settings.js";
import { Shell } from "./shell.js";
import { Share } from "./share.js";
import { setUpShortcuts } from "./shortcuts.js";
import { Sources } from "./sources.js";
import { Stage } from "./stage.js";
import { BrowserStore, Store, StoreError } from "./store.js";
import { SessionLock } from "./tabs.js";
import { dress, setUpTheme } from "./theme.js";
import { TranscriptView } from "./view.js";
import { WakeLock } from "./wakelock.js";
import { askName } from "./naming.js";
import { languageName, onLanguage, say, setCommand, speak } from "./words.js";

const DIGITS = "123456789"; // the keys of speakers

class App {
  #settings = load();
  #view = new TranscriptView(byId("captions"), byId("paragraphs"), byId("jump"), byId("announcer"));
  #dock = new Dock();
  #notice = new Notice();
  #card = new EngineCard();
  #shell = new Shell(this.#notice, () => this.#free && this.#session.transcript.empty);
  #choice = new LanguageChoice(this.#settings);
  #engine = new Engine((health) => this.#met(health));
  #wakeLock = new WakeLock();
  #share = new Share(this.#settings, () => this.#unlock());
  #sources;
  #line;
  #stage;
  #reading;
  #store;
  #session;
  #keeper;
  #list;
  #continue;
  /** @type {import("./engine.js").Health | null} */
  #served = null;
  /** @type {import("./engine.js").Health | null} that of the model that is chosen */
  #health = null;
  /** @type {import("./recording.js").State} */
  #state = "idle";
  #tag = /** @type {string | null} */ (null); // of the language that is spoken
  #demo = false; // what is shown, or heard

  /** @param {BrowserStore | null} browser */
  constructor(browser) {
    this.#store = new Store(browser);
    this.#session = new Session(this.#store, () => this.#settings.keep && !this.#demo, {
      state: (state) => this.#enter(state),
      changed: () => this.#render(),
      words: (text, source) => this.#view.announce(text, source),
      closed: () => this.#view.readOut(),
      note: (text) => this.#line.note(text),
      notice: (advice) => this.#notice.show(advice),
      unheard: (kind) => this.#notice.show(captureAdvice(kind)),
      shared: (shared) => this.#sources.shared(shared),
      level: (peak) => this.#dock.level(peak),
      language: (tag) => this.#speak(tag),
      waiting: () => this.#line.show(),
      began: () => this.#began(),
      ended: (failure) => this.#ended(failure),
    });
    this.#line = new ProgressLine(this.#session, this.#dock);
    this.#sources = new Sources(this.#settings, () => this.#session.recording, this.#notice);
    this.#keeper = new Keeper(this.#session);
    this.#view.announcing = this.#settings.announce;
    this.#stage = new Stage(this.#settings, () => this.#session.transcript, () =>
      this.#notice.show({ title: say("window.none"), steps: [say("window.step")] }),
    );
    this.#reading = new Reading(this.#session, this.#store, this.#view, {
      busy: () => this.#session.recording?.paused === false,
      note: (text) => this.#line.note(text),
      notice: (advice) => this.#notice.show(advice),
      reopen: (id, layer) => this.#open(id, layer),
    });
    this.#list = new SessionList(this.#store, {
      open: (id) => void this.#open(id),
      go: (id) => void this.#goOn(id),
      free: () => this.#free,
      shown: () => this.#session.id,
      removed: (id) => this.#forget(id),
      renamed: (id, title) => this.#session.rename(id, title),
    });
    this.#continue = new ContinueCard(
      (id) => void this.#goOn(id),
      (id) => void this.#open(id),
    );
  }

  start() {
    byId("host").textContent = location.host;
    byId("toggle").addEventListener("click", () => this.#toggle());
    byId("demo").addEventListener("click", () => this.#demonstrate());
    new Developers(() => {
      const { model = "MODEL", store = null } = this.#health ?? {};
      return { model, session: this.#session.served, stored: store !== null && this.#settings.store };
    });
    setUpShortcuts(() => this.#stage.shown, {
      " ": () => byId("toggle").click(),
      p: () => this.#pause(),
      u: () => this.#mute(),
      m: () => this.#mark(),
      ...Object.fromEntries([...DIGITS].map((digit) => [digit, () => this.#turn(Number(digit))])),
      f: () => (this.#stage.shown ? this.#stage.close() : this.#stage.open()),
      i: () => void this.#stage.float(),
      t: () => this.#list.show(),
      "?": () => byId("keys").showModal(),
    });
    byId("clear").addEventListener("click", () => this.#clear());
    byId("pause-sound").addEventListener("click", () => this.#pause());
    byId("mute").addEventListener("click", () => this.#mute());
    byId("mark").addEventListener("click", () => this.#mark());
    byId("paragraphs").addEventListener("click", (/** @type {Event} */ event) => this.#askName(event));
    const changed = (/** @type {string} */ name) => {
      dress(this.#settings);
      this.#view.announcing = this.#settings.announce;
      if (name === "model" || name === "store") this.#show();
      if (name === "pageLanguage") void speak(this.#settings.pageLanguage);
      if (name === "unsure") this.#shadeUnsure();
      if (name === "together") this.#sources.together();
    };
    setUpSettings(this.#settings, changed, () => this.#health?.pause_ms ?? 500);
    this.#setUpFiles();
    setUpTheme(this.#settings);
    setUpProfiles();
    onLanguage(() => this.#relabel());
    addEventListener("beforeunload", (event) => {
      if (this.#session.recording !== null || !this.#session.saved) event.preventDefault();
    });
    addEventListener("pagehide", () => this.#session.save());
    this.#shadeUnsure();
    void this.#sources.list();
    this.#enter(isSecureContext ? "idle" : "error");
    void this.#engine.ask();
    if (!isSecureContext) this.#notice.show(insecureAdvice(location));
    void this.#offer();
  }

  // Recording

  #toggle() {
    const { recording } = this.#session;
    if (recording === null) this.#record();
    else if (this.#state === "asking" || this.#state === "connecting") recording.cancel();
    else if (this.#state === "resending") recording.giveUp();
    else void recording.stop();
  }

  /** Someone without a microphone sees it work: nothing of it is kept. */
  #demonstrate() {
    if (this.#health?.key_needed) return void this.#unlock();
    if (this.#session.recording !== null) return;
    this.#reset();
    this.#continue.hide();
    this.#demo = true;
    this.#view.follow();
    const own = { together: false, keepSound: false, keepAudio: false };
    const alone = { ...own, store: false, captions: "" };
    const english = { ...this.#settings, ...alone, language: "en", translate: false };
    this.#session.record({ ...english, ...spoken(english, this.#health), source: DEMO });
  }

  #record() {
    if (this.#demo) this.#reset();
    if (!isSecureContext) return this.#notice.show(insecureAdvice(location));
    if (this.#health?.key_needed) return void this.#unlock();
    if (this.#session.interrupted) return void this.#goOn(this.#session.id);
    this.#notice.hide();
    this.#continue.hide();
    this.#reading.hush();
    this.#view.follow();
    const { name: captions } = this.#share;
    this.#session.record({ ...this.#settings, ...spoken(this.#settings, this.#health), captions });
    this.#wakeLock.hold(true);
  }

  #began() {
    void this.#sources.list();
    this.#share.began(this.#session.recording?.captions ?? "");
    void this.#engine.ask();
  }

  #pause() {
    const { recording } = this.#session;
    if (recording === null || this.#state !== "listening") return;
    recording.paused = !recording.paused;
    this.#showSound();
  }

  #mute() {
    const { recording } = this.#session;
    if (recording === null || this.#state !== "listening") return;
    recording.muted = !recording.muted;
    this.#showSound();
  }

  #showSound() {
    const { paused = false, muted = false } = this.#session.recording ?? {};
    if (!paused) this.#reading.hush();
    this.#dock.sound(paused, muted);
    this.#line.show();
  }

  /** @param {number} number of the one who speaks now */
  #turn(number) {
    const name = linesOf(this.#settings.speakers)[number - 1] ?? say("speaker.numbered", { number });
    if (this.#session.turn(name)) this.#line.note(say("speaker.speaks", { name }));
  }

  /** @param {Event} event a click on somebody's name */
  #askName({ target }) {
    const label = /** @type {Element} */ (target).closest("button.who");
    const item = label && this.#view.rowAt(label)?.item;
    if (!(label instanceof HTMLButtonElement) || item?.kind !== "paragraph" || item.speaker === null) return;
    const { source, speaker } = item;
    const remembers = this.#session.recording !== null && Boolean(this.#served?.store?.profiles);
    const named = (/** @type {string} */ name, /** @type {boolean} */ remember) =>
      this.#session.call({ source, speaker, name }, remember);
    askName(label, remembers, named);
  }

  #mark() {
    if (this.#session.mark()) this.#line.note(say("remark.marked"));
  }

  /** @param {import("./link.js").Failure | null} failure */
  #ended(failure) {
    this.#wakeLock.hold(false);
    this.#sources.shared(true);
    this.#view.readOut();
    if (this.#demo) this.#session.copied = true;
    if (failure?.code === "invalid_api_key") forgetKey();
    const failed = failure !== null && failure.code !== "aborted";
    this.#enter(failed ? "error" : this.#session.transcript.empty ? "idle" : "stopped");
    this.#showSound();
    void this.#engine.ask();
  }

  // Files

  get #free() {
    return this.#session.recording === null && this.#state !== "uploading";
  }

  #setUpFiles() {
    setUpFiles(() => this.#free, {
      locked: () => this.#health?.key_needed && (void this.#unlock(), true),
      room: (why) => this.#mayDrop(why, say("files.replace")),
      begin: () => {
        this.#notice.hide();
        this.#enter("uploading");
      },
      tell: (text) => this.#dock.detail(text),
      take: (file, answer) => this.#take(file, answer),
      end: () => {
        this.#enter(this.#session.transcript.empty ? "idle" : "stopped");
        void this.#engine.ask();
      },
      refused: (advice) => this.#notice.show(advice),
    });
  }

  /** @param {File} file @param {import("./upload.js").Answer} answer */
  #take(file, answer) {
    this.#reset();
    const { engine, model, device } = this.#health ?? {};
    this.#session.take(file, answer, { engine, model, device });
  }

  // The transcripts

  /** The session that was interrupted, if this tab may go on with it. */
  async #offer() {
    try {
      const info = await this.#store.unfinished();
      const held = await SessionLock.held();
      if (info && !held.has(info.id) && this.#session.transcript.empty) this.#continue.show(info);
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
    }
  }

  /** @param {string} id */
  async #goOn(id) {
    if (this.#health?.key_needed) return this.#unlock();
    if (!(await this.#mayDrop(say("clear.lost"), say("clear.yes")))) return;
    this.#reset();
    this.#continue.hide();
    this.#wakeLock.hold(true);
    await this.#session.continue(id, this.#settings);
    if (this.#session.recording === null) this.#wakeLock.hold(false);
  }

  /** @param {string} id @param {string} [layer] of the server's */
  async #open(id, layer) {
    if (!(await this.#mayDrop(say("clear.lost"), say("clear.yes")))) return;
    try {
      const saved = await this.#store.read(id, layer);
      if (saved === null) return;
      this.#reset();
      this.#continue.hide();
      this.#session.open(saved);
      this.#enter("stopped");
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
      const title = say("sessions.unreadable", { why: error.message });
      this.#notice.show({ title, steps: [] });
    }
  }

  /** It is deleted. @param {string} id */
  #forget(id) {
    this.#continue.hide();
    if (id !== this.#session.id) return;
    this.#reset();
    this.#enter("idle");
  }

  async #clear() {
    if (await this.#mayDrop(say("clear.lost"), say("clear.yes"))) {
      this.#reset();
      this.#enter("idle");
    }
  }

  /** What is kept may leave the page without a question. @param {string} why @param {string} yes */
  async #mayDrop(why, yes) {
    await this.#session.flush();
    if (this.#demo || this.#session.transcript.empty || this.#session.kept) return true;
    const unsaved = this.#session.copied ? "" : say("clear.unsaved");
    return confirmed(say("clear.title"), unsaved + why, yes);
  }

  #reset() {
    this.#demo = false;
    this.#session.reset();
    this.#share.renew();
    this.#view.clear();
    this.#reading.reset();
    this.#notice.hide();
    this.#render();
  }

  // What is shown

  /** In another language. */
  #relabel() {
    this.#session.transcript.rename();
    this.#enter(this.#state);
    this.#showSound();
    void this.#sources.list();
    this.#speak(this.#tag);
    this.#continue.relabel();
    this.#reading.render();
    if (this.#served) offerModels(this.#served, this.#settings.model);
    this.#show();
  }

  #shadeUnsure() {
    this.#view.lights.unsure = this.#settings.unsure;
    this.#view.relight();
  }

  /** @param {import("./recording.js").State} state */
  #enter(state) {
    this.#state = state;
    this.#dock.show(state);
    this.#line.enter(state);
    byId("upload").disabled = byId("browse").disabled = !this.#free;
    this.#arm();
  }

  #render() {
    this.#stage.render();
    this.#view.show(this.#session.transcript);
    this.#reading.render();
    this.#arm();
  }

  #arm() {
    const { transcript, recording } = this.#session;
    const bare = transcript.empty && transcript.draft === null;
    hide(byId("welcome"), !bare || recording !== null);
    hide(byId("waiting"), !bare || this.#state !== "listening");
    this.#keeper.enable(!transcript.empty);
    byId("clear").disabled = transcript.empty || !this.#free;
  }

  /** @param {import("./engine.js").Health | null} health */
  #met(health) {
    void this.#shell.met(health);
    if (health?.command) setCommand(health.command);
    this.#served = health;
    this.#store.served = Boolean(health?.store) && !health?.key_needed;
    if (health?.key_needed) void this.#unlock();
    if (health?.models) offerModels(health, this.#settings.model);
    this.#show();
  }

  /** The server with the model that is chosen. */
  #show() {
    this.#health = withModel(this.#served, this.#settings.model);
    this.#card.show(this.#health, this.#line.language);
    this.#choice.offer(this.#health);
    offerSpeeds(this.#health, this.#settings.speed);
    showStore(this.#health, this.#settings);
  }

  async #unlock() {
    const why = say(hasKey() ? "key.refused" : "key.why");
    forgetKey();
    if (await askForKey(why)) {
      this.#notice.hide();
      await this.#engine.ask();
    }
  }

  /**
   * The language of the captions, as the page says it and as their markup does.
   * @param {string | null} tag
   */
  #speak(tag) {
    this.#tag = tag;
    this.#line.language = languageName(tag);
    for (const id of ["paragraphs", "announcer", "stage-lines"]) byId(id).lang = tag ?? "";
    this.#card.show(this.#health, this.#line.language);
  }
}

new App(await BrowserStore.open()).start();
enable();
