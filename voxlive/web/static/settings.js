/** What the reader chose, kept in this browser. */

const KEY = "voxlive";

/**
 * @typedef {object} Settings
 * @property {"system" | "light" | "dark"} theme
 * @property {"small" | "medium" | "large" | "huge" | "largest"} size of the captions
 * @property {string} pageLanguage that of the interface, "" the browser's
 * @property {"page" | "legible" | "dyslexic" | "mono"} font of the captions
 * @property {"easy" | "whole"} measure how long their lines are: easy to read, or all of the window
 * @property {"steady" | "sentences" | "off"} announce what screen readers get by themselves
 * @property {string} source device id of the microphone, "" the default one, "display" shared sound
 * @property {boolean} together the microphone and shared sound, as two sources
 * @property {string} model by its name on the server, "" the default
 * @property {string} language that will be spoken, "" for the model to find out
 * @property {string} speed how certain a word has to be: a rule, or a delay in ms, "" the model's
 * @property {boolean} translate into English
 * @property {string} terms names and terms to expect, one on each line
 * @property {string} replacements what to write for what is heard, on lines such as `um =`
 * @property {boolean} diarize voices are told apart
 * @property {boolean} profiles and those are known by name that the server remembers
 * @property {string} speakers their names, one on each line, for the keys 1 to 9
 * @property {number} pauseMs a pause this long ends an utterance; 0: what suits the model
 * @property {boolean} store the transcript, on a server that keeps them
 * @property {boolean} keepAudio with it, where the server does for those who ask
 * @property {boolean} keep the transcript in this browser
 * @property {string} captions the name under which others may read along, "" one made up
 * @property {string} shareEnds when a link for them does: with the `session`, or after seconds
 * @property {boolean} keepSound with it
 * @property {boolean} unsure words of which the model was not sure are shaded
 * @property {number} stageSize of captions over the whole screen, in pixels
 * @property {number} stageLines
 * @property {number} stageWidth of the screen's, in per cent
 * @property {number} stageSpacing height of a line, in sizes
 * @property {"page" | "legible" | "dyslexic" | "mono"} stageFont
 * @property {string} stageColours
 * @property {string} stageInk the reader's own colours, as #rrggbb
 * @property {string} stageGround
 * @property {boolean} stageSmooth lines glide up
 * @property {boolean} echoCancellation
 * @property {boolean} noiseSuppression
 * @property {boolean} autoGainControl
 */

/** @type {Readonly<Settings>} */
const DEFAULTS = Object.freeze({
  theme: "system",
  size: "medium",
  pageLanguage: "",
  font: "page",
  measure: "easy",
  announce: "steady",
  source: "",
  together: false,
  model: "",
  language: "",
  speed: "",
  translate: false,
  terms: "",
  replacements: "",
  diarize: false,
  profiles: false,
  speakers: "",
  pauseMs: 0,
  store: true,
  keepAudio: false,
  keep: true,
  keepSound: false,
  unsure: false,
  captions: "",
  shareEnds: "86400",
  stageSize: 72,
  stageLines: 3,
  stageWidth: 96,
  stageSpacing: 1.3,
  stageFont: "page",
  stageColours: "white",
  stageInk: "#fff4d6",
  stageGround: "#10233f",
  stageSmooth: true,
  echoCancellation: true,
  noiseSuppression: true,
  autoGainControl: true,
});

/** What was kept; defaults for the rest, and where the browser keeps nothing for this page. */
export function load() {
  const settings = { ...DEFAULTS };
  for (const [key, value] of Object.entries(kept(KEY) ?? {})) {
    if (key in DEFAULTS && typeof value === typeof DEFAULTS[/** @type {keyof Settings} */ (key)]) {
      Object.assign(settings, { [key]: value });
    }
  }
  return settings;
}

/**
 * Those of a session that goes on: the microphone may be another one; how many sources there are stays.
 * @param {Partial<Settings>} before @param {Settings} now @returns {Settings}
 */
export function goneOnWith(before, now) {
  const together = Boolean(before.together);
  const source = together && now.source === "display" ? "" : now.source;
  return { ...now, ...before, together, source };
}

/** What stands on the lines of a text, without those that are empty. @param {string} text */
export function linesOf(text) {
  return text.split("\n").map((line) => line.trim()).filter(Boolean);
}

/** @param {Settings} settings */
export function save(settings) {
  keep(KEY, settings);
}

/** What this browser has kept under a name, null for nothing. @param {string} key */
export function kept(key) {
  try {
    return JSON.parse(localStorage.getItem(key) ?? "null");
  } catch {
    return null; // Storage is switched off for this page, or holds something else.
  }
}

/** @param {string} key @param {unknown} value */
export function keep(key, value) {
  try {
    localStorage.setItem(key, JSON.stringify(value));
  } catch {
    // Storage is switched off for this page: it lasts until that is closed.
  }
}
