/**
 * The reading page: captions of one session for whoever has its link. The token stands in the
 * fragment of the address, which no server and no proxy sees. No microphone, nothing is sent.
 */
import { Announcer } from "./announcer.js";
import { CaptionText } from "./captions.js";
import { byId, hide } from "./dom.js";
import { Follower } from "./follow.js";
import { enable, LANGUAGES } from "./language.js";
import { dressReader, loadLook, saveLook } from "./readerlook.js";
import { load, save } from "./settings.js";
import { SpeakerNames } from "./speakers.js";
import { onLanguage, say, speak } from "./words.js";

const NEAR_END_PX = 80;

/**
 * @typedef {"connecting" | "waiting" | "live" | "ended" | "offline" | "unreachable" | "refused"
 *   | "expired" | "revoked" | "invalid"} ReaderState
 */

class ReadingPage {
  #look = loadLook();
  #settings = load();
  #names = new SpeakerNames((number) => say("speaker.numbered", { number }));
  #text = new CaptionText(byId("text"), this.#names);
  #announcer = new Announcer(byId("announcer"));
  /** @type {Follower | null} */
  #follower = null;
  /** @type {ReaderState} */
  #state = "connecting";
  /** @type {ReaderState} the last one that the server said */
  #told = "connecting";
  #session = "";
  #following = true;
  #lastTop = 0;

  start() {
    this.#setUpLook();
    addEventListener("scroll", () => this.#scrolled(), { passive: true });
    addEventListener("hashchange", () => location.reload());
    new ResizeObserver(() => this.#keepUp()).observe(document.body);
    byId("newest").addEventListener("click", () => this.#follow());
    onLanguage(() => {
      this.#text.rename();
      this.#render();
    });
    this.#connect();
  }

  #connect() {
    const token = location.hash.slice(1);
    if (token === "") return this.#enter("invalid");
    const url = new URL("../read/events", import.meta.url);
    url.searchParams.set("from", this.#look.from);
    const listener = {
      event: (/** @type {string} */ kind, /** @type {any} */ data) => this.#take(kind, data),
      state: (/** @type {import("./follow.js").LineState} */ state, /** @type {string} */ why) =>
        this.#line(state, why),
    };
    this.#enter("connecting");
    this.#follower = new Follower(url, token, listener, ["no_such_link"]);
  }

  /** @param {import("./follow.js").LineState} state @param {string} why */
  #line(state, why) {
    if (state === "over") this.#enter(why === "revoked" ? "revoked" : "expired");
    else if (state === "refused" && why === "no_such_link") this.#enter(this.#text.empty ? "invalid" : "expired");
    else if (state !== "open") {
      this.#text.clearDrafts();
      this.#enter(state);
    }
  }

  /** @param {string} kind @param {any} data */
  #take(kind, data) {
    if (kind === "snapshot") this.#restore(data);
    else if (kind === "words") {
      this.#text.append(data.segment, data.text, data.source ?? "", data.words);
      this.#announce(data.text);
    } else if (kind === "draft" && this.#look.drafts) this.#text.draft(data.text, data.source ?? "");
    else if (kind === "segment") {
      this.#text.put(data);
      this.#announcer.flush();
    } else if (kind === "corrected") this.#text.put({ id: data.segment, text: data.text });
    else if (kind === "speakers") this.#text.label(data.segment, data.parts ?? []);
    else if (kind === "named") {
      this.#names.set(data.source ?? "", data.speaker, data.name);
      this.#text.rename();
    }
    else if (kind === "done") {
      this.#text.clearDrafts();
      this.#announcer.flush();
      this.#tell("ended");
    } else if (kind === "waiting") this.#tell("waiting");
    this.#render();
    this.#keepUp();
  }

  /** What there is by now: all of it, or what has come since this page had the line. @param {any} data */
  #restore({ session, segments, open, draft, complete, speakers = [] }) {
    const fresh = session !== this.#session;
    if (fresh) this.#text.divide(say("read.again"));
    this.#text.clearDrafts();
    this.#names.restore(speakers);
    this.#text.rename();
    this.#session = session;
    byId("missing").hidden = complete || !fresh;
    for (const segment of segments) {
      const more = this.#text.put(segment);
      if (!fresh) this.#announce(more);
    }
    for (const { segment: id, ...opened } of open) {
      const more = this.#text.put({ id, ...opened });
      if (!fresh) this.#announce(more);
    }
    if (this.#look.drafts) this.#text.draft(draft, "");
    this.#tell("live");
  }

  /** @param {string} text */
  #announce(text) {
    if (this.#look.announce) this.#announcer.add(text);
  }

  /** @param {ReaderState} state */
  #tell(state) {
    this.#told = state;
    this.#enter(state);
  }

  /** @param {ReaderState} state */
  #enter(state) {
    this.#state = state;
    this.#render();
  }

  #render() {
    const state = this.#state;
    document.body.dataset.state = state;
    const text = say(`read.state.${state}`);
    if (byId("status").textContent !== text) byId("status").textContent = text;
    const blank = this.#text.empty;
    byId("blank").hidden = !blank || state === "live";
    byId("blank-title").textContent = text;
    byId("blank-text").textContent = say(`read.help.${state}`);
    const over = state === "ended" || state === "expired" || state === "revoked";
    byId("after").hidden = blank || !over;
    byId("after").textContent = say(`read.help.${state}`);
    document.title = state === "live" ? say("read.title") : `${text} · ${say("read.title")}`;
  }

  // The newest line stays in sight, unless the reader has scrolled up.

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = document.documentElement;
    if (scrollHeight - scrollTop - clientHeight < NEAR_END_PX) this.#following = true;
    else if (scrollTop < this.#lastTop) this.#following = false;
    this.#lastTop = scrollTop;
    hide(byId("newest"), this.#following);
  }

  #follow() {
    this.#following = true;
    this.#keepUp();
  }

  #keepUp() {
    if (this.#following) scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" });
    hide(byId("newest"), this.#following);
  }

  // How it looks

  #setUpLook() {
    const form = byId("look-form");
    for (const [key, { name }] of Object.entries(LANGUAGES)) byId("page-language").add(new Option(name, key));
    const show = () => {
      for (const field of form.elements) {
        if (field.name === "pageLanguage") field.value = this.#settings.pageLanguage;
        else if (field.type === "checkbox") field.checked = Reflect.get(this.#look, field.name);
        else if (field.name) field.value = String(Reflect.get(this.#look, field.name));
      }
      byId("size-text").textContent = `${this.#look.size} px`;
    };
    form.addEventListener("input", (/** @type {any} */ { target: { name, type, value, checked } }) => {
      if (name === "pageLanguage") {
        this.#settings.pageLanguage = value;
        save(this.#settings);
        void speak(value);
      } else {
        const wanted = type === "checkbox" ? checked : type === "range" ? Number(value) : value;
        Object.assign(this.#look, { [name]: wanted });
        saveLook(this.#look);
        dressReader(this.#look);
        if (!this.#look.drafts) this.#text.clearDrafts();
      }
      show();
      this.#keepUp();
    });
    show();
    byId("open-look").addEventListener("click", () => byId("look").showModal());
  }
}

new ReadingPage().start();
enable();
