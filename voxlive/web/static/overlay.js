/**
 * Captions of one session for a browser source. What it looks like stands in the address, and so does
 * the token of a link, or a key. A person who opens it in a tab sees what it is, on a dark ground.
 */
import { Follower } from "./follow.js";
import { dressOverlay, OverlayText } from "./overlaylook.js";

const LINK = "rd_"; // what the token of a link begins with

const wishes = new URLSearchParams(location.search);
const root = /** @type {HTMLElement} */ (document.getElementById("overlay"));
const hint = /** @type {HTMLElement} */ (document.getElementById("hint"));
const words = new OverlayText(/** @type {HTMLElement} */ (document.getElementById("text")), wishes);
const token = wishes.get("token") ?? "";
let state = "connecting";

/** Names the session in the last part of this page's path; captions/ and read/ lie beside overlay/. */
function address() {
  if (token.startsWith(LINK)) {
    const url = new URL("../read/events", location.href);
    url.searchParams.set("count", "0");
    url.searchParams.set("from", "now");
    return url;
  }
  const name = location.pathname.slice(location.pathname.lastIndexOf("/") + 1);
  return new URL(`../captions/${name}`, location.href);
}

/** @param {string} next */
function enter(next) {
  state = next;
  document.body.dataset.state = next;
  const { inTab } = document.body.dataset;
  for (const part of hint.children) {
    if (part instanceof HTMLElement && part.dataset.when) part.hidden = part.dataset.when !== hintOf(next);
  }
  hint.hidden = inTab === undefined;
}

/** @param {string} state */
function hintOf(state) {
  if (["expired", "revoked", "invalid_api_key", "forbidden", "no_such_link"].includes(state)) return "closed";
  return state === "following" ? "following" : "waiting";
}

/** A source in OBS is never in focus, and nobody moves a pointer over it, unless it is interacted with. */
function watchForPeople() {
  if ("obsstudio" in window) return;
  const seen = async () => {
    if (document.body.dataset.inTab !== undefined) return;
    document.body.dataset.inTab = "";
    if (token.startsWith(LINK)) {
      const link = /** @type {HTMLAnchorElement} */ (document.getElementById("read-link"));
      link.href = new URL(`../read#${token}`, location.href).href;
      link.hidden = false;
    }
    enter(state);
    await import("./words.js");
  };
  if (document.hasFocus()) void seen();
  for (const kind of ["focus", "pointermove", "pointerdown", "keydown"]) {
    addEventListener(kind, () => void seen(), { once: true });
  }
}

dressOverlay(root, wishes);
enter("connecting");
watchForPeople();
const listener = {
  event: (/** @type {string} */ kind, /** @type {any} */ data) => {
    words.take(kind, data);
    if (kind === "snapshot") enter("following");
    else if (kind === "waiting" || kind === "done") enter("waiting");
  },
  state: (/** @type {string} */ line, /** @type {string} */ why) => {
    if (line === "refused" || line === "over") enter(why);
    else if (line !== "open") enter(line);
  },
};
// A session of a name is asked for until it is there; the connection of a link waits for it.
const patienceMs = token.startsWith(LINK) ? undefined : 2000;
new Follower(address(), token, listener, ["no_such_link"], patienceMs);
