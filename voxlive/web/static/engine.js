/** What runs on the server: asked at the start, after each session, and until it is ready. */
import { keyHeaders } from "./key.js";
import { say } from "./words.js";

const HEALTH = new URL("../health", import.meta.url);
const RETRY_MS = 5000;
const COMMAND = /(?:[\w.-]+\/)*\bvoxlive [a-z]+(?: --[\w-]+(?: [\w./-]+)?)*/g;
const ENGLISH_ONLY = new RegExp(`^English only: (${COMMAND.source}) knows 99 languages`);

/**
 * Without a key, where one is needed, there are the first four alone.
 * @typedef {object} Health
 * @property {"ok" | "failing"} status
 * @property {boolean} live
 * @property {boolean} ready
 * @property {boolean} key_needed
 * @property {string | null} [error] why it is failing
 * @property {string} engine
 * @property {string} model
 * @property {string} device
 * @property {number} capacity
 * @property {number} in_use
 * @property {string | null} note
 * @property {string[]} languages that its model knows
 * @property {boolean} takes_language whether it may be told which is spoken
 * @property {boolean} translates into English
 * @property {string[]} commit_rules that a session may choose
 * @property {string | null} commit the rule unless one is chosen
 * @property {number} pause_ms that ends an utterance unless one is chosen
 * @property {number[]} delays_ms that a session may choose
 * @property {number | null} delay_ms unless one is chosen
 * @property {{ location: string, keep_days: number | null, audio?: { of: string }, profiles?: boolean } | null} [store] where transcripts are kept
 * @property {string} version
 * @property {string} command what voxlive is called by where the server was started
 * @property {({ name: string } & Partial<Health>)[]} [models] all live ones, the default first
 */

export class Engine {
  #listener;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /** @param {(health: Health | null) => void} listener null when the server does not answer */
  constructor(listener) {
    this.#listener = listener;
  }

  /** Asks now, and again until the server is ready. */
  async ask() {
    clearTimeout(this.#timer);
    const health = await fetchHealth();
    this.#listener(health);
    if (!health?.ready) this.#timer = setTimeout(() => this.ask(), RETRY_MS);
  }
}

/** @returns {Promise<Health | null>} */
async function fetchHealth() {
  try {
    const response = await fetch(HEALTH, { cache: "no-store", headers: keyHeaders() });
    return await response.json(); // 503 carries the same body
  } catch {
    return null;
  }
}

/** The model with its engine, unless its name says that already. @param {Health} health */
export function engineName({ engine, model, device }) {
  const name = model.includes(engine) ? model : `${engine} ${model}`;
  return say("server.model", { name, device: device.toUpperCase() });
}

/** Whether its model knows no other language. @param {Health} health */
export function isEnglishOnly({ languages }) {
  return languages?.length === 1 && languages[0] === "en";
}

/**
 * The server with the model that the reader chose; with the default where it does not have that.
 * @template {Health | null} T
 * @param {T} health
 * @param {string} name
 * @returns {T}
 */
export function withModel(health, name) {
  const chosen = health?.models?.find((model) => model.name === name);
  return health && chosen ? { ...health, ...chosen, error: health.error } : health;
}

/**
 * What the running model can use of the reader's choice.
 * @param {import("./settings.js").Settings} settings
 * @param {Health | null} health
 */
export function spoken({ model, language, translate, speed, profiles }, health) {
  const known = Boolean(health?.takes_language && health.languages.includes(language));
  return {
    model: health?.models?.some(({ name }) => name === model) ? model : "",
    language: known ? language : "",
    speed: speedOf(speed, health) === null ? "" : speed,
    translate: translate && Boolean(health?.translates),
    profiles: profiles && Boolean(health?.store?.profiles),
  };
}

/**
 * What the chosen speed is for the running model; null where it has no such choice.
 * @param {string} speed @param {Health | null} health
 * @returns {{commit: string} | {delay_ms: number} | null}
 */
function speedOf(speed, health) {
  if (health?.commit_rules?.includes(speed)) return { commit: speed };
  if (health?.delays_ms?.includes(Number(speed))) return { delay_ms: Number(speed) };
  return null;
}

/** The engine's remark, its commands in `backticks`. @param {Health | null} health */
export function remark(health) {
  const note = health?.note ?? "";
  if (!ENGLISH_ONLY.test(note)) return note.replace(COMMAND, "`$&`");
  return note.replace(ENGLISH_ONLY, (_, command) => say("server.english-only", { command: `\`${command}\`` }));
}
