/**
 * Follows captions as server-sent events, whatever the line does. With fetch and not EventSource: the
 * token stands in a header and not in an address, and what a server says no with can be read.
 */

const SILENT_MS = 25_000; // the server says something every 10 to 15 s
const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 10_000;
const HEALTHY_MS = 10_000;

/**
 * @typedef {"connecting" | "open" | "offline" | "unreachable" | "refused" | "over"} LineState
 *   `refused`: by the server, with the code of why
 * @typedef {object} FollowListener
 * @property {(kind: string, data: any) => void} event
 * @property {(state: LineState, why: string) => void} state
 */

export class Follower {
  #url;
  #token;
  #listener;
  #final;
  #patienceMs;
  #last = ""; // id of the last event that had one
  #tries = 0;
  #over = false;
  /** @type {AbortController | null} */
  #asking = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #hurry = () => this.#again(0);
  #drop = () => this.#asking?.abort(); // a broken line may look whole for minutes

  /**
   * @param {URL} url
   * @param {string} token "" for none
   * @param {FollowListener} listener
   * @param {string[]} final codes of refusals that no other try would change
   * @param {number} patienceMs between two tries at most
   */
  constructor(url, token, listener, final = [], patienceMs = LAST_RETRY_MS) {
    this.#url = url;
    this.#token = token;
    this.#listener = listener;
    this.#final = final;
    this.#patienceMs = patienceMs;
    addEventListener("online", this.#hurry);
    addEventListener("offline", this.#drop);
    void this.#run();
  }

  /** For good. */
  close() {
    this.#over = true;
    clearTimeout(this.#timer);
    this.#asking?.abort();
    removeEventListener("online", this.#hurry);
    removeEventListener("offline", this.#drop);
  }

  async #run() {
    const asking = new AbortController();
    this.#asking = asking;
    let silence = setTimeout(() => asking.abort(), SILENT_MS);
    const began = performance.now();
    /** @type {[LineState, string]} */
    let outcome = ["unreachable", ""];
    try {
      const { signal } = asking;
      const response = await fetch(this.#url, { headers: this.#headers(), signal, cache: "no-store" });
      if (!response.ok || response.body === null) outcome = ["refused", await codeOf(response)];
      else {
        this.#listener.state("open", "");
        const text = response.body.pipeThrough(new TextDecoderStream()).getReader();
        const parser = new EventParser();
        for (let part = await text.read(); !part.done && !this.#over; part = await text.read()) {
          clearTimeout(silence);
          silence = setTimeout(() => asking.abort(), SILENT_MS);
          for (const event of parser.push(part.value)) this.#take(event);
        }
        if (performance.now() - began > HEALTHY_MS) this.#tries = 0;
        outcome = ["connecting", ""];
      }
    } catch {
      // The line broke, was silent for too long, or there is none.
      outcome = [navigator.onLine ? "unreachable" : "offline", ""];
    }
    clearTimeout(silence);
    if (this.#over || this.#asking !== asking) return;
    this.#asking = null;
    if (outcome[0] === "refused" && this.#final.includes(outcome[1])) this.close();
    this.#listener.state(...outcome);
    // Many readers are let go together where a server ends: they do not come back all at once.
    const wait = Math.min(this.#patienceMs, FIRST_RETRY_MS * 2 ** this.#tries++);
    this.#again(wait * (0.5 + Math.random()));
  }

  /** @returns {Record<string, string>} */
  #headers() {
    return {
      accept: "text/event-stream",
      // What a header cannot have is no token.
      ...(/^[\x21-\x7e]+$/.test(this.#token) && { authorization: `Bearer ${this.#token}` }),
      ...(this.#last && { "last-event-id": this.#last }),
    };
  }

  /** @param {{kind: string, id: string, data: string}} event */
  #take({ kind, id, data }) {
    if (this.#over) return;
    this.#tries = 0;
    if (id !== "") this.#last = id;
    if (kind === "over") {
      this.close();
      this.#listener.state("over", JSON.parse(data).reason);
    } else this.#listener.event(kind, JSON.parse(data));
  }

  /** @param {number} ms */
  #again(ms) {
    clearTimeout(this.#timer);
    if (this.#over || this.#asking) return;
    this.#timer = setTimeout(() => void this.#run(), ms);
  }
}

/** Text in any pieces to events (HTML, 9.2.6); only what this server sends of it. */
export class EventParser {
  #rest = "";

  /** @param {string} text */
  push(text) {
    const blocks = (this.#rest + text).split("\n\n");
    this.#rest = /** @type {string} */ (blocks.pop());
    return blocks.map(parse).filter(({ kind }) => kind !== "");
  }
}

/** @param {string} block */
function parse(block) {
  const event = { kind: "", id: "", data: "" };
  for (const line of block.split("\n")) {
    const at = line.indexOf(": ");
    const name = line.slice(0, at);
    if (name === "event") event.kind = line.slice(at + 2);
    else if (name === "id" || name === "data") event[name] = line.slice(at + 2);
  }
  return event;
}

/** @param {Response} response */
async function codeOf(response) {
  try {
    return String((await response.json()).error.code);
  } catch {
    return String(response.status);
  }
}
