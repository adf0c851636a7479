/**
 * Captions of one session for a browser source. What it looks like stands in the address:
 * size, color, background, lines, position, align, width, font, weight, shadow, drafts, fade, token.
 */

const RETRY_MS = 2000;
const MAX_CHARACTERS = 2000;

/** @typedef {{text: string}} Word */
/** @typedef {{text: string, source?: string}} Line */

const wishes = new URLSearchParams(location.search);
const text = /** @type {HTMLElement} */ (document.getElementById("text"));

/** @param {string} value @param {number} low @param {number} high */
function within(value, low, high) {
  const number = Number(value);
  return value !== "" && number >= low && number <= high ? String(number) : null;
}

/**
 * A value that the style property takes, or null: bad parameters leave the default as it is.
 * @param {string} property
 * @param {string} value
 */
function valid(property, value) {
  return CSS.supports(property, value) && !/url\s*\(/i.test(value) ? value : null;
}

/** @param {string} value */
function colour(value) {
  return valid("color", /^[0-9a-f]{3,8}$/i.test(value) ? `#${value}` : value);
}

/** @param {string} value @param {string} unit */
function withUnit(value, unit) {
  return valid("width", /^[\d.]+$/.test(value) ? `${value}${unit}` : value);
}

/** @type {Record<string, string>} */
const PLACES = { top: "flex-start", middle: "center", bottom: "flex-end" };

/**
 * What each parameter sets, and how it is read.
 * @type {Record<string, [string, (value: string) => string | null]>}
 */
const STYLES = {
  size: ["--size", (value) => withUnit(value, "px")],
  color: ["--color", colour],
  background: ["--background", colour],
  lines: ["--lines", (value) => within(value, 1, 20)],
  position: ["--place", (value) => (Object.hasOwn(PLACES, value) ? PLACES[value] : null)],
  align: ["--align", (value) => valid("text-align", value)],
  width: ["--width", (value) => withUnit(value, "%")],
  font: ["--font", (value) => valid("font-family", value)],
  weight: ["--weight", (value) => valid("font-weight", value)],
  shadow: ["--shadow", (value) => valid("text-shadow", value === "0" ? "none" : value)],
};

for (const [name, [variable, read]] of Object.entries(STYLES)) {
  const given = wishes.get(name);
  const value = given === null ? null : read(given);
  if (value !== null) document.documentElement.style.setProperty(variable, value);
}

const withDrafts = wishes.get("drafts") !== "0";
const fadeMs = Number(within(wishes.get("fade") ?? "", 0, 3600) ?? 10) * 1000;

let committed = "";
let draft = "";
/** @type {ReturnType<typeof setTimeout> | undefined} */
let fading;

function show() {
  const said = document.createElement("b");
  said.textContent = committed.trimStart();
  if (withDrafts && draft !== "") {
    const guess = document.createElement("i");
    guess.textContent = (committed === "" ? draft.trimStart() : draft);
    said.append(guess);
  }
  const line = document.createElement("span");
  line.append(said);
  text.replaceChildren(...(said.textContent === "" ? [] : [line]));
  text.classList.remove("gone");
  clearTimeout(fading);
  if (fadeMs > 0) fading = setTimeout(() => text.classList.add("gone"), fadeMs);
}

/** Where another source goes on, a dash stands, as in subtitles. */
let speaking = "";

/** @param {string} more @param {string} source */
function turned(more, source) {
  if (source === speaking) return more;
  speaking = source;
  return ` \u2013 ${more.trimStart()}`;
}

/** @param {string} more @param {string} source */
function say(more, source) {
  more = turned(more, source);
  committed = (text.classList.contains("gone") ? more : committed + more).slice(-MAX_CHARACTERS);
}

/** What each event changes. @type {Record<string, (event: any) => void>} */
const EVENTS = {
  snapshot({ segments, words, draft: guess, sources = [] }) {
    const open = [{ words }, ...sources].filter((one) => one.words.length > 0);
    const join = (/** @type {Word[]} */ all) => all.map((word) => word.text).join("");
    /** @type {Line[]} */
    const texts = open.map((one) => ({ ...one, text: join(one.words) }));
    speaking = "";
    committed = [...segments.slice(-3), ...texts]
      .map(({ text, source = "" }) => turned(text, source))
      .join("");
    draft = guess;
  },
  words({ text: more, source = "" }) {
    say(more, source);
    draft = "";
  },
  draft({ text: guess, source = "" }) {
    if (guess !== "" || source === speaking) draft = guess;
  },
};

/** Names the session in the last part of this page's path; captions/ lies beside overlay/. */
function address() {
  const name = location.pathname.slice(location.pathname.lastIndexOf("/") + 1);
  const url = new URL(`../captions/${name}`, location.href);
  const token = wishes.get("token");
  if (token !== null) url.searchParams.set("token", token);
  return url;
}

/** Follow the session, and the next one of its name after it. */
function follow() {
  const source = new EventSource(address());
  for (const [kind, change] of Object.entries(EVENTS)) {
    source.addEventListener(kind, (event) => {
      change(JSON.parse(event.data));
      show();
    });
  }
  const again = () => {
    source.close();
    setTimeout(follow, RETRY_MS);
  };
  source.addEventListener("done", again);
  source.addEventListener("error", again);
  source.addEventListener("open", () => (document.body.dataset.state = "following"));
}

follow();
