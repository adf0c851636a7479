/** One WebSocket of the native live protocol, and what its errors mean for a session. */

const READY_MS = 10_000; // from connecting to the first message that is expected
/** How often in a row another connection is tried after each failure; others are final. */
export const RETRIES = new Map([
  ["lost", Infinity],
  ["unreachable", Infinity],
  ["no_answer", Infinity],
  ["server_full", Infinity],
  ["shutting_down", Infinity],
  ["session_expired", Infinity],
  ["idle", Infinity],
  ["rate_limit_exceeded", Infinity],
  ["too_many_sessions", Infinity],
  ["state_unavailable", Infinity],
  ["store_busy", Infinity],
  ["store_failed", Infinity],
  ["overrun", Infinity],
  ["unknown_session", Infinity],
  ["resume_gap", Infinity],
  ["taken_over", 3],
  ["bad_server", 3],
  ["slow_client", 3],
  ["engine_failed", 3],
  ["vad_failed", 3],
  ["internal", 3],
]);
/** Fatal errors that refuse a connection and leave the session that it asks for as it is. */
export const REFUSALS = [
  "server_full",
  "shutting_down",
  "rate_limit_exceeded",
  "too_many_sessions",
  "state_unavailable",
  "store_busy",
  "store_failed",
];
/** The server is there, and has no session to go on with: a new one is tried at once. */
export const GONE = ["unknown_session", "resume_gap"];
/** What a server says that has no resumable sessions, or is older than they are. */
export const NOT_RESUMABLE = ["unsupported_option", "bad_start"];
/** Errors that are not fatal, after which the server brings out the rest and ends. */
export const ENDINGS = ["shutting_down", "session_expired", "idle"];
/** What a close without an error means. */
const MEANING = new Map([
  [1008, "slow_client"],
  [1009, "too_big"],
  [1011, "engine_failed"],
  [1012, "shutting_down"],
  [1013, "server_full"],
  [4401, "invalid_api_key"],
  [4404, "unknown_session"],
  [4429, "rate_limit_exceeded"],
]);

/** @typedef {import("./link.js").Failure} Failure */

/** One WebSocket, from connecting to its end. */
export class Connection {
  #listener;
  /** @type {WebSocket | null} */
  #socket = null;
  #over = false;
  /** @type {Failure | null} what its end will be put down to */
  #ending = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /**
   * @param {string} url
   * @param {() => Promise<string[]>} protocols
   * @param {object} first the message that it begins with
   * @param {{message: (message: any) => void, closed: (failure: Failure | null) => void}} listener
   */
  constructor(url, protocols, first, listener) {
    this.#listener = listener;
    this.expect(READY_MS);
    void this.#dial(url, protocols, first);
  }

  /** @param {string} url @param {() => Promise<string[]>} protocols @param {object} first */
  async #dial(url, protocols, first) {
    let offered;
    try {
      offered = await protocols();
    } catch (failure) {
      return this.fail(/** @type {Failure} */ (failure));
    }
    if (this.#over) return;
    const socket = new WebSocket(url, offered);
    let opened = false;
    this.#socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      opened = true;
      this.say(first);
    };
    socket.onmessage = ({ data }) => this.#receive(data);
    socket.onclose = ({ code }) => {
      const meaning = MEANING.get(code) ?? (opened ? "lost" : "unreachable");
      this.fail(this.#ending ?? { code: meaning, message: "" });
    };
  }

  /** Whether audio can be sent. */
  get open() {
    return !this.#over && this.#ending === null && this.#socket?.readyState === WebSocket.OPEN;
  }

  /** Bytes that were sent but have not left this machine. */
  get buffered() {
    return this.#socket?.bufferedAmount ?? 0;
  }

  /** @param {Int16Array} pcm */
  send(pcm) {
    this.#socket?.send(pcm);
  }

  /** @param {object} message */
  say(message) {
    this.#socket?.send(JSON.stringify(message));
  }

  /** Fails unless something comes within this time; 0: no matter when. @param {number} ms */
  expect(ms) {
    clearTimeout(this.#timer);
    const late = { code: "no_answer", message: "" };
    if (ms > 0) this.#timer = setTimeout(() => this.fail(late), ms);
  }

  /** The server will end it, for this reason: it takes no more audio. @param {Failure} failure */
  ends(failure) {
    this.#ending = failure;
  }

  /** The server has ended it, for the reason that it gave, if any. */
  end() {
    this.fail(this.#ending ?? { code: "lost", message: "" });
  }

  /** Ends it, and says so; null: all is well. @param {Failure | null} failure */
  fail(failure) {
    if (this.#over) return;
    this.close();
    this.#listener.closed(failure);
  }

  /** Ends it. */
  close() {
    this.#over = true;
    clearTimeout(this.#timer);
    const socket = this.#socket;
    if (socket === null) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }

  /** @param {unknown} data */
  #receive(data) {
    const message = parse(data);
    if (message === null) this.fail({ code: "bad_server", message: "" });
    else this.#listener.message(message);
  }
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
