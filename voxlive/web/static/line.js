/** How the line to the server is: why there is none, and what is worth saying once it is back. */

const AWAY_MS = 3000; // without a connection, after which it is worth saying that all has come
const NEAR_S = 2;
const SILENT_MS = 10_000; // that a connection has been when it is given up for that

export class LineState {
  /** Why there is no connection. */
  broken = "";
  #behind = false; // there may be much to be sent after the connection is back
  #awaySince = 0; // without a connection
  #continued = false; // and not connected since

  /** The session was another page's, or this one's before it was loaded again. */
  goesOn() {
    this.#continued = true;
  }

  /** There is none, and another one is tried. @param {string} code why */
  waiting(code) {
    this.broken = code;
    const silent = code === "no_answer" ? SILENT_MS : 0;
    this.#awaySince ||= performance.now() - silent;
  }

  /** It is back. @param {boolean} lost whether something is missing @returns {boolean} whether to say that it is */
  back(lost) {
    this.broken = "";
    this.#behind = performance.now() - (this.#awaySince || Infinity) > AWAY_MS;
    this.#awaySince = 0;
    const told = !this.#continued && !lost;
    this.#continued = false;
    return told;
  }

  /** Whether all has come now that was kept, and that is worth saying. @param {number} behind seconds */
  caughtUp(behind) {
    if (!this.#behind || behind >= NEAR_S || this.broken !== "") return false;
    this.#behind = false;
    return true;
  }
}
