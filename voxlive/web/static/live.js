/** One session of the native live protocol over one WebSocket. */
import { hasKey, pass } from "./key.js";

const READY_MS = 10_000; // from opening the socket to `ready`
const DONE_MS = 60_000; // without any message, after `stop`
const MEANING = new Map([
  [1008, "slow_client"],
  [1009, "too_big"],
  [1011, "engine_failed"],
  [1012, "shutting_down"],
  [1013, "server_full"],
  [4401, "invalid_api_key"],
  [4429, "rate_limit_exceeded"],
]);
const ENDINGS = ["shutting_down", "session_expired", "idle"];

/**
 * @typedef {{text: string, start: number, end: number, p: number | null}} Word
 * @typedef {{code: string, message: string}} Failure
 * @typedef {object} Listener
 * @property {(message: any) => void} message every server message but what ends the session
 * @property {(failure: Failure | null) => void} closed the last call; null after `done`
 */

/**
 * Where the native protocol is, beside this page, whatever the root path.
 * @param {string} captions the session's name for those who read along
 */
export function liveUrl(captions = "") {
  const url = new URL("../v1/live", import.meta.url);
  if (captions !== "") url.searchParams.set("captions", captions);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}

/** Connects at once. Audio may be sent once `ready` has come. */
export class LiveSession {
  /** @type {WebSocket | null} */
  #socket = null;
  #start;
  #listener;
  #seq = 0;
  #opened = false;
  #done = false;
  #stopping = false;
  /** @type {Failure | null} */
  #failure = null;
  /** @type {ReturnType<typeof setTimeout>} */
  #timer;

  /**
   * @param {string} url
   * @param {object} start the fields of the `start` message
   * @param {Listener} listener
   */
  constructor(url, start, listener) {
    this.#listener = listener;
    this.#start = start;
    this.#timer = setTimeout(() => this.abort("no_answer"), READY_MS);
    if (hasKey()) void this.#enter(url);
    else this.#dial(url, []);
  }

  /** @param {string} url */
  async #enter(url) {
    try {
      const offered = await pass();
      if (this.#failure === null) this.#dial(url, offered);
    } catch (failure) {
      if (this.#failure === null) this.#end(/** @type {Failure} */ (failure));
    }
  }

  /** @param {string} url @param {string[]} offered */
  #dial(url, offered) {
    const socket = new WebSocket(url, offered);
    this.#socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      this.#opened = true;
      this.#say({ type: "start", ...this.#start });
    };
    socket.onmessage = ({ data }) => this.#receive(data);
    socket.onclose = ({ code }) => this.#close(code);
  }

  /** Whether the server still takes audio. */
  get open() {
    const over = this.#done || this.#failure !== null;
    return !over && this.#socket?.readyState === WebSocket.OPEN;
  }

  /** Bytes that were sent but have not left this machine. */
  get buffered() {
    return this.#socket?.bufferedAmount ?? 0;
  }

  /** @param {Int16Array} pcm */
  send(pcm) {
    this.#socket?.send(pcm);
  }

  /** The last audio has been sent: the rest of the words comes, then the end. */
  stop() {
    this.#stopping = true;
    this.#say({ type: "stop" });
    this.#wait();
  }

  /** Ends without waiting. @param {string} code why, for the listener */
  abort(code) {
    const socket = this.#socket;
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    }
    this.#failure = { code, message: "" };
    this.#end(this.#failure);
  }

  /** @param {object} message */
  #say(message) {
    this.#socket?.send(JSON.stringify(message));
  }

  #wait() {
    clearTimeout(this.#timer);
    if (this.#stopping) this.#timer = setTimeout(() => this.abort("no_answer"), DONE_MS);
  }

  /** @param {string} data */
  #receive(data) {
    const message = parse(data);
    if (message === null || message.seq !== this.#seq++) {
      this.abort("bad_server");
      return;
    }
    this.#wait();
    if (message.type === "error" && ends(message)) {
      this.#failure = message;
      return;
    }
    if (message.type === "done") this.#done = true;
    this.#listener.message(message);
  }

  /** @param {number} code */
  #close(code) {
    if (this.#done && this.#stopping) this.#end(null);
    else {
      const meaning = MEANING.get(code) ?? (this.#opened ? "lost" : "unreachable");
      this.#end(this.#failure ?? { code: meaning, message: "" });
    }
  }

  /** @param {Failure | null} failure */
  #end(failure) {
    clearTimeout(this.#timer);
    this.#listener.closed(failure);
  }
}

/**
 * Whether the session ends for this; some bring out the rest first.
 * @param {any} error
 */
function ends({ fatal, code }) {
  return fatal || ENDINGS.includes(code);
}

/** @param {unknown} data @returns {any} null unless it is a JSON object */
function parse(data) {
  try {
    const message = JSON.parse(String(data));
    return typeof message === "object" ? message : null;
  } catch {
    return null;
  }
}
