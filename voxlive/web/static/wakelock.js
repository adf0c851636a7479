/** Keeps the screen on while it is held; the browser lets go whenever the page is hidden. */
export class WakeLock {
  #wanted = false;
  /** @type {WakeLockSentinel | null} */
  #lock = null;

  constructor() {
    document.addEventListener("visibilitychange", () => this.#update());
  }

  /** @param {boolean} wanted */
  hold(wanted) {
    this.#wanted = wanted;
    void this.#update();
  }

  async #update() {
    if (!this.#wanted) {
      const lock = this.#lock;
      this.#lock = null;
      await lock?.release();
    } else if (document.visibilityState === "visible" && navigator.wakeLock) {
      try {
        const lock = await navigator.wakeLock.request("screen");
        if (this.#wanted) this.#lock = lock;
        else await lock.release();
      } catch {
        // Refused, for instance at a low battery: captions work all the same.
      }
    }
  }
}
