/**
 * Links by which others read along. One is for the sessions of this transcript: they have a captions
 * name that nothing else has, unless one was given. Its token is kept in this browser, since
 * the server knows it no more; so a link can be shown again after a reload.
 */
import { copyBy } from "./clipboard.js";
import { byId } from "./dom.js";
import { keyHeaders } from "./key.js";
import { keep, kept, save } from "./settings.js";
import { dateTime, onLanguage, say } from "./words.js";

const SHARES = new URL("../v1/shares", import.meta.url);
const STATE = new URL("../read/state", import.meta.url);
const KEPT = "voxlive-links";
const NAME = "voxlive-captions";
const COUNT_MS = 5000;
const LONGEST_S = 30 * 86_400;
const MAX_KEPT = 20;
const HERE_ALONE = /^(localhost|.*\.localhost|127\.[\d.]+|\[::1\])$/;

/**
 * @typedef {import("./settings.js").Settings} Settings
 * @typedef {{id: string, captions: string, token: string, url: string, qr: string, expires_at: string,
 *   ends_with_session: boolean, readers: number}} Link
 */

export class Share {
  #settings;
  #name = keptName();
  #used = false; // by a session
  /** @type {Link | null} */
  #link = null;
  #dialog = byId("share");
  #unlock;

  /** @param {Settings} settings @param {() => Promise<void>} unlock asks for the server's key */
  constructor(settings, unlock) {
    this.#settings = settings;
    this.#unlock = unlock;
    byId("open-share").addEventListener("click", () => void this.open());
    byId("share-ends").addEventListener("change", () => void this.#change());
    byId("share-copy").addEventListener("click", () => void this.#copy());
    byId("share-stop").addEventListener("click", () => void this.#stop());
    byId("share-make").addEventListener("click", () => void this.#make());
    byId("share-others").addEventListener("click", () => void this.#stopOthers());
    byId("share-close").addEventListener("click", () => this.#dialog.close());
    onLanguage(() => this.#show());
    setInterval(() => void this.#count(), COUNT_MS);
    document.addEventListener("visibilitychange", () => void this.#count());
    this.#look();
  }

  /** What sessions of this page are read by. */
  get name() {
    return this.#settings.captions || this.#name;
  }

  /** A session begins, or goes on, by this name. @param {string} name */
  began(name) {
    if (name === "") return;
    this.#used = true;
    this.#keepName("");
    if (name !== this.#settings.captions) this.#name = name;
    this.#look();
  }

  /** Another transcript begins: what follows is not for those who have the link of this one. */
  renew() {
    if (!this.#used) return;
    this.#used = false;
    this.#name = freshName();
    this.#keepName(this.#name);
    this.#look();
  }

  /** The link of the present name, if this browser has made one. */
  #look() {
    this.#link = links().find((one) => one.captions === this.name) ?? null;
    this.#show();
    void this.#count();
  }

  async open() {
    this.#look();
    byId("share-failed").hidden = true;
    this.#dialog.showModal();
    if (this.#link === null) await this.#make();
    else await this.#count();
    await this.#listOthers();
  }

  /** Until a session begins it is that of this tab, also when it is loaded again. @param {string} name */
  #keepName(name) {
    try {
      sessionStorage.setItem(NAME, name);
    } catch {
      // It lasts until the page is loaded again.
    }
  }

  async #make() {
    if (!this.#used) this.#keepName(this.#name);
    const ends = this.#ends;
    const page = new URL("..", import.meta.url).href;
    const made = await this.#ask("POST", SHARES, { captions: this.name, page, ...ends });
    if (made) this.#keep(made);
    this.#show();
  }

  /** How long a link lasts, as it was chosen last. */
  get #ends() {
    const chosen = this.#settings.shareEnds;
    if (chosen === "session") return { expires_in: LONGEST_S, ends_with_session: true };
    return { expires_in: Number(chosen), ends_with_session: false };
  }

  async #change() {
    this.#settings.shareEnds = byId("share-ends").value;
    save(this.#settings);
    if (this.#link === null) return;
    const changed = await this.#ask("PATCH", at(this.#link.id), this.#ends);
    if (changed) this.#keep({ ...this.#link, ...changed });
    this.#show();
  }

  async #stop() {
    if (this.#link === null || !(await this.#ask("DELETE", at(this.#link.id)))) return;
    this.#drop();
    this.#show();
  }

  /** Links that this key has besides, of other transcripts and browsers. */
  async #listOthers() {
    const found = await this.#ask("GET", SHARES);
    const others = (found?.links ?? []).filter((/** @type {Link} */ { id }) => id !== this.#link?.id);
    byId("share-others-row").hidden = others.length === 0;
    byId("share-others-text").textContent = say("share.others", { count: others.length });
    return others;
  }

  async #stopOthers() {
    for (const { id } of await this.#listOthers()) await this.#ask("DELETE", at(id));
    await this.#listOthers();
  }

  /** How many read, and whether the link is still there. */
  async #count() {
    if (this.#link === null || document.hidden) return;
    const { token } = this.#link;
    let response;
    try {
      response = await fetch(STATE, { headers: { authorization: `Bearer ${token}` } });
      const state = await response.json();
      if (this.#link?.token !== token) return;
      if (response.ok) this.#keep({ ...this.#link, ...state });
      else if (response.status === 404) this.#drop();
    } catch {
      return; // The page says elsewhere that there is no line.
    }
    this.#show();
  }

  /** @param {Link} link */
  #keep(link) {
    this.#link = link;
    const others = links().filter(({ captions }) => captions !== link.captions);
    keep(KEPT, [link, ...others].slice(0, MAX_KEPT));
  }

  #drop() {
    keep(KEPT, links().filter(({ id }) => id !== this.#link?.id));
    this.#link = null;
  }

  /** @param {string} method @param {URL} url @param {object} [body] */
  async #ask(method, url, body) {
    byId("share-failed").hidden = true;
    const headers = { "content-type": "application/json", ...keyHeaders() };
    try {
      const response = await fetch(url, { method, headers, body: body && JSON.stringify(body) });
      if (response.ok) return response.status === 204 ? {} : await response.json();
      if (response.status === 401) {
        this.#dialog.close();
        void this.#unlock();
        return null;
      }
      const { error } = await response.json();
      this.#fail(say("advice.server-says", { message: error.message }));
    } catch {
      this.#fail(say("read.state.unreachable"));
    }
    return null;
  }

  /** @param {string} text */
  #fail(text) {
    byId("share-failed").textContent = text;
    byId("share-failed").hidden = false;
  }

  #show() {
    const link = this.#link;
    byId("share-made").hidden = link === null;
    byId("share-none").hidden = link !== null;
    byId("share-stop").hidden = link === null;
    byId("share-ends").value = this.#settings.shareEnds;
    const readers = link?.readers ?? 0;
    byId("share-count").textContent = readers > 0 ? String(readers) : "";
    byId("share-count").hidden = readers === 0;
    const label = link ? say("share.reading", { count: readers }) : say("share.open");
    byId("open-share").title = label;
    byId("open-share").toggleAttribute("data-shared", link !== null);
    if (link === null) return;
    if (byId("share-url").value !== link.url) {
      byId("share-url").value = link.url;
      byId("share-qr").src = `data:image/svg+xml,${encodeURIComponent(link.qr)}`;
      byId("share-go").href = link.url;
    }
    byId("share-readers").textContent = say("share.reading", { count: readers });
    byId("share-until").textContent = link.ends_with_session
      ? say("share.until-session")
      : say("share.until", { when: dateTime(new Date(link.expires_at)) });
    byId("share-here").hidden = !HERE_ALONE.test(new URL(link.url).hostname);
    const overlay = new URL("../overlay", import.meta.url);
    const until = link.ends_with_session ? "" : link.expires_at;
    overlay.hash = new URLSearchParams({ name: link.captions, token: link.token, until }).toString();
    byId("share-overlay").href = overlay.href;
  }

  async #copy() {
    byId("share-url").select();
    await copyBy(byId("share-copy"), byId("share-url").value);
  }
}

/** @param {string} id */
function at(id) {
  return new URL(`shares/${encodeURIComponent(id)}`, SHARES);
}

function freshName() {
  const random = crypto.getRandomValues(new Uint8Array(8));
  return `page-${[...random].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

/** That of this tab before it was loaded again. */
function keptName() {
  try {
    return sessionStorage.getItem(NAME) || freshName();
  } catch {
    return freshName();
  }
}

/** Those of this browser that have not ended. @returns {Link[]} */
function links() {
  const found = kept(KEPT);
  if (!Array.isArray(found)) return [];
  return found.filter((/** @type {Link} */ link) => Date.parse(link?.expires_at) > Date.now());
}
