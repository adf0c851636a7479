/** Brings the parts of the page together. */
import { Captions } from "./captions.js";
import { CaptureError } from "./capture.js";
import { Dock } from "./dock.js";
import { byId, clock } from "./dom.js";
import { Engine, languageName, spoken, withModel } from "./engine.js";
import { Job, setUpFiles } from "./files.js";
import { askForKey, forgetKey, hasKey } from "./key.js";
import { Keeper } from "./keeper.js";
import {
  captureAdvice,
  gapText,
  insecureAdvice,
  liveAdvice,
  uploadAdvice,
  waitingText,
  warningAdvice,
} from "./messages.js";
import { confirmed, EngineCard, LanguageChoice, Notice, offerModels, setUpSettings, showStore } from "./panels.js";
import { Recording } from "./recording.js";
import { load, save } from "./settings.js";
import { dress, setUpTheme } from "./theme.js";
import { Transcript } from "./transcript.js";
import { segmentsOf, UploadError } from "./upload.js";
import { WakeLock } from "./wakelock.js";

const TICK_MS = 250;
const REMARK_MS = 6000;
const STALE_MS = 5000; // of a draft, after the connection is back

class App {
  #settings = load();
  #transcript = new Transcript();
  #captions = new Captions(byId("captions"), byId("paragraphs"), byId("jump"), byId("announcer"));
  #keeper = new Keeper(() => this.#transcript);
  #dock = new Dock();
  #notice = new Notice();
  #card = new EngineCard();
  #choice = new LanguageChoice(this.#settings);
  #engine = new Engine((health) => this.#met(health));
  #wakeLock = new WakeLock();
  /** @type {import("./engine.js").Health | null} */
  #served = null;
  /** @type {import("./engine.js").Health | null} that of the model that is chosen */
  #health = null;
  /** @type {import("./recording.js").State} */
  #state = "idle";
  /** @type {Recording | null} */
  #recording = null;
  #duration = 0; // of everything in the transcript, in seconds
  #language = "";
  #remark = { text: "", until: 0 };
  #broken = ""; // why there is no connection

  start() {
    byId("host").textContent = location.host;
    byId("toggle").addEventListener("click", () => this.#toggle());
    addEventListener("keydown", (event) => this.#key(event));
    byId("clear").addEventListener("click", () => this.#clear());
    byId("source").addEventListener("change", () => this.#chooseSource());
    setUpSettings(this.#settings, (name) => {
      dress(this.#settings);
      if (name === "model" || name === "store") this.#show();
    });
    setUpFiles(
      () => this.#free,
      (file) => void this.#transcribe(file),
    );
    setUpTheme(this.#settings);
    addEventListener("beforeunload", (event) => {
      if (this.#recording !== null || !this.#keeper.saved) event.preventDefault();
    });
    navigator.mediaDevices?.addEventListener("devicechange", () => this.#listSources());
    setInterval(() => this.#tick(), TICK_MS);
    this.#listSources();
    this.#enter(isSecureContext ? "idle" : "error");
    void this.#engine.ask();
    if (!isSecureContext) this.#notice.show(insecureAdvice(location));
  }

  // Recording

  #toggle() {
    if (this.#recording === null) this.#record();
    else if (this.#state === "asking" || this.#state === "connecting") this.#recording.cancel();
    else if (this.#state === "resending") this.#recording.giveUp();
    else void this.#recording.stop();
  }

  /**
   * The space bar starts and stops while nothing else has the focus.
   * @param {KeyboardEvent} event
   */
  #key(event) {
    if (event.key !== " " || event.repeat || event.target !== document.body) return;
    if (document.querySelector("dialog[open]")) return;
    event.preventDefault();
    byId("toggle").click();
  }

  #record() {
    if (!isSecureContext) return this.#notice.show(insecureAdvice(location));
    if (this.#health?.key_needed) return void this.#unlock();
    this.#notice.hide();
    this.#captions.follow();
    this.#transcript.duration = Infinity;
    const settings = { ...this.#settings, ...spoken(this.#settings, this.#health) };
    this.#recording = new Recording(settings, this.#duration, {
      state: (state) => this.#enter(state),
      level: (peak) => this.#dock.level(peak),
      ready: (message) => this.#ready(message),
      event: (message) => this.#event(message),
      waiting: ({ code }) => this.#wait(code),
      resumed: () => this.#resumed(),
      restarted: (gap) => this.#restarted(gap),
      unheard: (kind) => this.#notice.show(captureAdvice(kind)),
      ended: (failure, missing) => this.#ended(failure, missing),
    });
    this.#wakeLock.hold(true);
    void this.#recording.start();
  }

  /** @param {any} ready */
  #ready({ model, engine, device, language, languages }) {
    const now = new Date();
    if (this.#transcript.empty) {
      this.#keeper.nameAfter(now);
      this.#transcript.about = { created: now.toISOString(), engine, model, device, language };
    } else {
      this.#transcript.mark(this.#duration, `Started again at ${now.toLocaleTimeString()}`);
    }
    // What is recognised nobody says; but where words can be in one language only, they are.
    this.#speak(languages.length === 1 ? languages[0] : language);
    this.#listSources();
    this.#render();
  }

  /** @param {any} message */
  #event(message) {
    const transcript = this.#transcript;
    if (message.type === "words") {
      transcript.words(message.segment, message.words);
      this.#keeper.saved = false;
    } else if (message.type === "draft") {
      transcript.drafted(message.segment, message.text, this.#reached());
    } else if (message.type === "speech_started") transcript.speechStarted(message.t);
    else if (message.type === "language") this.#speak(message.language);
    else if (message.type === "segment") this.#close(message);
    else if (message.type === "recovered") this.#note("recognition was interrupted, nothing is lost");
    else if (message.type === "error") this.#notice.show(liveAdvice(message));
    else return;
    this.#render();
  }

  /** @param {{segment: string, text: string}} segment */
  #close({ segment, text }) {
    if (this.#transcript.draft?.key === segment) this.#transcript.draft = null;
    this.#captions.announce(text);
  }

  /** About where the engine is, in the transcript's time. */
  #reached() {
    const { seconds = 0, behind = 0 } = this.#recording ?? {};
    return this.#duration + seconds - behind;
  }

  /** @param {string} code */
  #wait(code) {
    this.#broken = code;
    this.#tick();
  }

  /** A word beside the clock, for a moment. @param {string} text */
  #note(text) {
    this.#remark = { text, until: performance.now() + REMARK_MS };
    this.#tick();
  }

  #resumed() {
    this.#note("connected again, nothing is lost");
    const { draft } = this.#transcript;
    setTimeout(() => this.#dropDraft(draft), STALE_MS);
  }

  /** What replaced it came while there was no connection. @param {unknown} draft */
  #dropDraft(draft) {
    if (this.#transcript.draft !== draft) return;
    this.#transcript.draft = null;
    this.#render();
  }

  /** @param {import("./link.js").Gap} gap */
  #restarted(gap) {
    if (gap.lost > 0) this.#transcript.keepDraft();
    this.#transcript.mark(gap.at, gapText(gap));
    this.#render();
    void this.#engine.ask();
  }

  /** @param {import("./link.js").Failure | null} failure @param {number} missing */
  #ended(failure, missing) {
    const seconds = this.#recording?.seconds ?? 0;
    this.#recording = null;
    this.#duration += seconds;
    this.#transcript.duration = this.#duration;
    this.#wakeLock.hold(false);
    const cancelled = failure?.code === "aborted";
    if (failure === null || cancelled) this.#transcript.draft = null;
    else if (failure.code !== "capture") this.#fail(failure, missing);
    if (failure?.code === "invalid_api_key") forgetKey();
    const ended =
      failure !== null && !cancelled ? "error" : this.#transcript.empty ? "idle" : "stopped";
    this.#enter(ended);
    this.#render();
    void this.#engine.ask();
  }

  /** @param {import("./link.js").Failure} failure @param {number} missing */
  #fail(failure, missing) {
    const advice = liveAdvice(failure);
    if (!this.#transcript.empty || this.#transcript.draft) {
      this.#transcript.keepDraft();
      const rest = missing >= 1 ? ` Up to ${missing.toFixed(0)} s of sound are missing here.` : "";
      this.#transcript.mark(this.#duration, `${advice.title}.${rest}`);
    }
    this.#notice.show(advice);
  }

  async #chooseSource() {
    this.#settings.source = byId("source").value;
    save(this.#settings);
    try {
      await this.#recording?.use(this.#settings);
    } catch (error) {
      if (!(error instanceof CaptureError)) throw error;
      this.#notice.show(captureAdvice(error.kind));
    }
  }

  #listSources() {
    void this.#dock.sources(this.#settings.source);
  }

  // Files

  get #free() {
    return this.#recording === null && this.#state !== "uploading";
  }

  /**
   * Its transcript takes the place of the one shown, so that its times begin at zero.
   * @param {File} file
   */
  async #transcribe(file) {
    if (this.#health?.key_needed) return this.#unlock();
    if (!(await this.#mayDrop(`The transcript of ${file.name} will take its place.`, "Replace")))
      return;
    this.#notice.hide();
    this.#enter("uploading");
    try {
      const answer = await new Job().run(file, (text) => this.#dock.detail(text));
      if (answer !== null) this.#take(file, answer);
    } catch (error) {
      if (!(error instanceof UploadError)) throw error;
      this.#notice.show(uploadAdvice(file.name, error.status, error.message));
    }
    this.#enter(this.#transcript.empty ? "idle" : "stopped");
    void this.#engine.ask();
  }

  /** @param {File} file @param {import("./upload.js").Answer} answer */
  #take(file, answer) {
    this.#reset();
    const { engine, model, device } = this.#health ?? {};
    const { duration, language = null } = answer;
    const created = new Date().toISOString();
    this.#transcript.about = {
      created,
      file: file.name,
      duration,
      engine,
      model,
      device,
      language,
    };
    this.#keeper.name = file.name.replace(/\.[^.]*$/, "");
    this.#duration = this.#transcript.duration = duration;
    for (const [index, { words, whole }] of segmentsOf(answer).entries()) {
      this.#transcript.words(`file/${index}`, words, whole);
    }
    if (answer.warnings?.length) this.#notice.show(warningAdvice(file.name, answer.warnings));
    if (this.#transcript.empty) this.#transcript.mark(0, `No speech was found in ${file.name}.`);
    this.#keeper.saved = false;
    this.#speak(language);
    this.#render();
  }

  // The transcript

  async #clear() {
    if (await this.#mayDrop("It cannot be brought back.", "Clear")) {
      this.#reset();
      this.#enter("idle");
    }
  }

  /** @param {string} why @param {string} yes */
  async #mayDrop(why, yes) {
    if (this.#transcript.empty) return true;
    const unsaved = this.#keeper.saved ? "" : "It has not been downloaded or copied. ";
    return confirmed("Clear this transcript?", unsaved + why, yes);
  }

  #reset() {
    this.#transcript = new Transcript();
    this.#captions.clear();
    this.#duration = 0;
    this.#keeper.saved = true;
    this.#notice.hide();
    this.#render();
  }

  // What is shown

  /** @param {import("./recording.js").State} state */
  #enter(state) {
    this.#state = state;
    this.#dock.show(state);
    this.#dock.detail("");
    this.#tick();
    byId("upload").disabled = byId("browse").disabled = !this.#free;
    this.#arm();
  }

  #render() {
    this.#captions.show(this.#transcript);
    this.#arm();
  }

  #arm() {
    const { empty, draft } = this.#transcript;
    const active = !this.#free;
    const bare = empty && draft === null;
    byId("welcome").hidden = !bare || this.#recording !== null;
    byId("waiting").hidden = !bare || this.#state !== "listening";
    this.#keeper.enable(!empty);
    byId("clear").disabled = empty || active;
  }

  #tick() {
    const recording = this.#recording;
    if (this.#state === "listening" && recording) {
      const { text, until } = this.#remark;
      const remark = performance.now() < until ? text : this.#language;
      this.#dock.progress(recording.seconds, recording.behind, remark);
    } else if ((this.#state === "reconnecting" || this.#state === "resending") && recording) {
      const { seconds, unsent, dropped } = recording;
      this.#dock.detail(`${clock(seconds)} · ${waitingText(this.#broken, unsent, dropped)}`);
    } else if (this.#state === "stopped") {
      const words = this.#transcript.wordCount;
      const count = words === 1 ? "1 word" : `${words.toLocaleString("en")} words`;
      this.#dock.detail(`${count} in ${clock(this.#duration)}`);
    }
  }

  /** @param {import("./engine.js").Health | null} health */
  #met(health) {
    this.#served = health;
    if (health?.key_needed) void this.#unlock();
    if (health?.models) offerModels(health, this.#settings.model);
    this.#show();
  }

  /** The server with the model that is chosen. */
  #show() {
    this.#health = withModel(this.#served, this.#settings.model);
    this.#card.show(this.#health, this.#language);
    this.#choice.offer(this.#health);
    showStore(this.#health, this.#settings);
  }

  async #unlock() {
    const why = hasKey()
      ? "The server did not accept that key. Is it whole, and still valid?"
      : "This server lets in whoever has a key. It is kept until this tab is closed.";
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
    this.#language = languageName(tag);
    byId("paragraphs").lang = tag ?? "";
    this.#card.show(this.#health, this.#language);
  }
}

new App().start();
