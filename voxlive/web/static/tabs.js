/**
 * One tab has a live session at a time. The lock is the browser's: it is free again when the tab is
 * closed, loaded again or has crashed. A tab that wants the session asks the one that has it.
 */
const LOCK = "voxlive-session-";
const WAIT_MS = 5000;

export class SessionLock {
  #channel = globalThis.BroadcastChannel ? new BroadcastChannel("voxlive") : null;
  #id = "";
  #free = () => {};

  /** @param {() => Promise<void>} letGo of the session, since another tab goes on with it */
  constructor(letGo) {
    if (this.#channel === null) return;
    this.#channel.onmessage = async ({ data }) => {
      if (data.take !== this.#id || this.#id === "") return;
      await letGo();
      this.release();
    };
  }

  /** Whether it is free, or the tab that had it has let go. @param {string} id */
  async take(id) {
    this.release();
    if (!navigator.locks) return true;
    this.#channel?.postMessage({ take: id });
    const signal = AbortSignal.timeout(WAIT_MS);
    return new Promise((resolve) => {
      const held = navigator.locks.request(LOCK + id, { signal }, () => {
        this.#id = id;
        resolve(true);
        return new Promise((free) => (this.#free = () => free(undefined)));
      });
      held.catch(() => resolve(false));
    });
  }

  release() {
    this.#id = "";
    this.#free();
  }

  /** Ids of the sessions that tabs have. @returns {Promise<Set<string>>} */
  static async held() {
    const { held = [] } = (await navigator.locks?.query()) ?? {};
    const names = held.map(({ name = "" }) => name).filter((name) => name.startsWith(LOCK));
    return new Set(names.map((name) => name.slice(LOCK.length)));
  }
}
