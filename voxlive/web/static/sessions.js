/** The list of transcripts: search, open, continue, rename, download, delete. */
import { byId, clock, make } from "./dom.js";
import { download, FORMATS } from "./exports.js";
import { confirmed } from "./panels.js";
import { StoreError } from "./store.js";
import { SessionLock } from "./tabs.js";
import { Transcript } from "./transcript.js";
import { ago, dateTime, say, span } from "./words.js";

const TYPED_MS = 250;
const TITLE_CHARS = 70;

/**
 * @typedef {import("./store.js").Store} Store
 * @typedef {import("./store.js").SessionInfo} SessionInfo
 * @typedef {object} SessionActions
 * @property {(id: string) => void} open
 * @property {(id: string) => void} go goes on with it
 * @property {() => boolean} free whether another one can be shown now
 * @property {() => string} shown the id of the one that is
 * @property {(id: string) => void} removed
 * @property {(id: string, title: string) => void} renamed
 */

export class SessionList {
  #store;
  #actions;
  #dialog = byId("sessions");
  #list = byId("sessions-list");
  #empty = byId("sessions-empty");
  #search = byId("sessions-search");
  #more = byId("sessions-more");
  /** @type {string | null} */
  #next = null;
  #asked = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /** @param {Store} store @param {SessionActions} actions */
  constructor(store, actions) {
    this.#store = store;
    this.#actions = actions;
    byId("open-sessions").addEventListener("click", () => this.show());
    this.#search.addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#fill(), TYPED_MS);
    });
    byId("sessions-form").addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      void this.#fill();
    });
    byId("sessions-close").addEventListener("click", () => this.#dialog.close());
    this.#more.addEventListener("click", () => this.#fill(this.#next));
  }

  show() {
    this.#search.value = "";
    this.#list.replaceChildren();
    this.#dialog.showModal();
    void this.#fill();
  }

  /** @param {string | null} [cursor] */
  async #fill(cursor = null) {
    const asked = ++this.#asked;
    const query = this.#search.value;
    await this.#tried(async () => {
      const { sessions, next, problem = "" } = await this.#store.list(query, cursor);
      const held = await SessionLock.held();
      if (asked !== this.#asked) return;
      const rows = sessions.map((info) => this.#row(info, held.has(info.id)));
      if (cursor === null) this.#list.replaceChildren(...rows);
      else this.#list.append(...rows);
      this.#next = next;
      this.#more.hidden = next === null;
      const none = this.#list.childElementCount === 0;
      this.#empty.hidden = !none;
      this.#empty.textContent = say(query.trim() ? "sessions.none-found" : "sessions.none");
      if (problem !== "") this.#complain(problem);
    });
  }

  /** @param {() => Promise<void>} act */
  async #tried(act) {
    try {
      await act();
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
      this.#complain(error.message);
    }
  }

  /** @param {string} why */
  #complain(why) {
    this.#empty.hidden = false;
    this.#empty.textContent = say("sessions.unreadable", { why });
  }

  /** @param {SessionInfo} info @param {boolean} held */
  #row(info, held) {
    const title = titleOf(info);
    const name = make("h3", "session-title", title);
    name.dir = "auto";
    const row = make("li", "session", name);
    const found = info.found || (info.title && info.preview);
    if (found) row.append(make("p", "session-text", found));
    /** @type {HTMLElement} */ (row.lastElementChild).dir = "auto";
    row.append(make("p", "session-facts quiet", ...this.#facts(info, held)));
    row.append(make("div", "session-actions", ...this.#buttons(info, held, title)));
    row.dataset.session = info.id;
    return row;
  }

  /** @param {SessionInfo} info @param {boolean} held */
  #facts(info, held) {
    const when = make("time", "", dateTime(new Date(info.created)));
    when.setAttribute("datetime", info.created);
    const count = say("sessions.words", { count: info.wordCount });
    const place = say(info.place === "server" ? "sessions.server" : "sessions.browser");
    const facts = [clock(info.seconds), count, place, this.#state(info, held)].filter(Boolean);
    return [when, ` · ${facts.join(" · ")}`];
  }

  /** @param {SessionInfo} info @param {boolean} held */
  #state(info, held) {
    if (info.id === this.#actions.shown()) return say("sessions.here");
    if (held && info.running) return say("sessions.elsewhere");
    if (info.unfinished) return say("sessions.unfinished");
    return info.running ? say("sessions.running") : "";
  }

  /** @param {SessionInfo} info @param {boolean} held @param {string} title */
  #buttons(info, held, title) {
    const { id } = info;
    const here = id === this.#actions.shown();
    const buttons = [];
    const add = (/** @type {string} */ text, /** @type {() => void} */ act) => {
      const button = make("button", "secondary small", text);
      button.setAttribute("type", "button");
      button.setAttribute("aria-label", `${text}: ${title}`);
      button.addEventListener("click", act);
      buttons.push(button);
    };
    if (!here && this.#actions.free()) {
      if (info.unfinished) {
        add(say(held ? "sessions.take" : "sessions.continue"), () => {
          this.#dialog.close();
          this.#actions.go(id);
        });
      }
      if (!held) {
        add(say("sessions.open"), () => {
          this.#dialog.close();
          this.#actions.open(id);
        });
      }
    }
    buttons.push(this.#downloads(info, title));
    add(say("sessions.rename"), () => this.#rename(info));
    if (!held && !(here && !this.#actions.free())) add(say("sessions.delete"), () => this.#remove(info, title));
    return buttons;
  }

  /** @param {SessionInfo} info @param {string} title */
  #downloads(info, title) {
    const select = /** @type {HTMLSelectElement} */ (make("select", "small"));
    select.setAttribute("aria-label", `${say("sessions.download")} ${title}`);
    const options = [["", say("sessions.download")], ...Object.keys(FORMATS).map((f) => [f, f.toUpperCase()])];
    for (const [value, text] of options) select.add(new Option(text, value));
    select.addEventListener("change", () => {
      const format = select.value;
      select.value = "";
      void this.#tried(async () => {
        const saved = await this.#store.read(info.id);
        if (saved === null || format === "") return;
        const transcript = Transcript.of(saved.entries, saved.about);
        transcript.duration = saved.info.seconds || Infinity;
        download(transcript, format, fileName(titleOf(saved.info)));
      });
    });
    return select;
  }

  /** @param {SessionInfo} info @param {Element | null} opener that has the focus */
  #rename(info, opener = document.activeElement) {
    const row = this.#rowOf(info.id);
    const input = /** @type {HTMLInputElement} */ (make("input", "session-name"));
    input.type = "text";
    input.maxLength = 200;
    input.value = info.title;
    input.setAttribute("aria-label", say("sessions.title"));
    row?.firstElementChild?.replaceWith(input);
    input.select();
    let over = false;
    const done = async (/** @type {boolean} */ keep) => {
      if (over) return;
      over = true;
      const title = input.value.trim();
      if (keep && title !== info.title) {
        await this.#tried(async () => {
          this.#actions.renamed(info.id, title);
          await this.#store.rename(info.id, title);
          info.title = title;
        });
      }
      const name = make("h3", "session-title", titleOf(info));
      name.dir = "auto";
      const leaving = document.activeElement !== input;
      input.replaceWith(name);
      if (!leaving) /** @type {HTMLElement} */ (opener).focus();
    };
    input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== "Escape") return;
      event.preventDefault();
      event.stopPropagation();
      void done(event.key === "Enter");
    });
    input.addEventListener("blur", () => void done(true));
  }

  /** @param {SessionInfo} info @param {string} title */
  async #remove(info, title) {
    const text = say("sessions.delete-text", { title });
    if (!(await confirmed(say("sessions.delete-title"), text, say("sessions.delete")))) return;
    await this.#tried(async () => {
      this.#actions.removed(info.id);
      await this.#store.remove(info.id);
      this.#rowOf(info.id)?.remove();
      await this.#fill();
    });
  }

  /** @param {string} id */
  #rowOf(id) {
    const rows = /** @type {HTMLElement[]} */ ([...this.#list.children]);
    return rows.find((row) => row.dataset.session === id);
  }
}

/** What the empty page offers: the session that was interrupted last. */
export class ContinueCard {
  #card = byId("continue");
  /** @type {SessionInfo | null} */
  #info = null;

  /** @param {(id: string) => void} go @param {(id: string) => void} open */
  constructor(go, open) {
    byId("continue-go").addEventListener("click", () => this.#info && go(this.#info.id));
    byId("continue-open").addEventListener("click", () => this.#info && open(this.#info.id));
    byId("continue-close").addEventListener("click", () => this.hide());
  }

  /** @param {SessionInfo} info */
  show(info) {
    this.#info = info;
    const ended = info.unfinished;
    const when = ago(Date.now() - Date.parse(info.updated));
    const waiting = ended ? (ended.link.captured - ended.link.sent) / 16_000 : 0;
    const sound = waiting >= 1 ? ` ${say("continue.sound", { seconds: Math.round(waiting) })}` : "";
    byId("continue-when").textContent =
      say("continue.when", { when, length: span(info.seconds) }) + sound;
    const text = byId("continue-text");
    text.textContent = info.preview ? say("continue.quote", { text: info.preview }) : "";
    text.hidden = info.preview === "";
    this.#card.hidden = false;
  }

  /** In another language. */
  relabel() {
    if (this.#info) this.show(this.#info);
  }

  hide() {
    this.#info = null;
    this.#card.hidden = true;
  }
}

/** @param {SessionInfo} info */
function titleOf({ title, preview }) {
  const text = title || preview;
  if (text === "") return say("sessions.untitled");
  return text.length > TITLE_CHARS ? `${text.slice(0, TITLE_CHARS).trim()}…` : text;
}

/** @param {string} title */
function fileName(title) {
  return title.replace(/[\\/:*?"<>|\p{C}]+/gu, " ").trim() || "voxlive";
}
