/** The page as it is kept in this browser, for when there is no server. */
import { offlineAdvice } from "./messages.js";

const WORKER = new URL("./service-worker.js", import.meta.url);
const SCOPE = new URL("../", import.meta.url);

/**
 * Keeps the page. Browsers that keep nothing for it (over http from elsewhere, or with a certificate
 * that they do not trust) go without.
 */
export class Shell {
  #notice;
  #bare;
  #reached = false; // the server, since the page was loaded

  /**
   * @param {import("./panels.js").Notice} notice
   * @param {() => boolean} bare whether nothing is shown that another page would lose
   */
  constructor(notice, bare) {
    this.#notice = notice;
    this.#bare = bare;
    if (document.readyState === "complete") keep();
    else addEventListener("load", keep, { once: true });
  }

  /**
   * What the server says, null without an answer. At the start there are the transcripts without it;
   * once it answers, a page that was kept makes room for its own.
   * @param {import("./engine.js").Health | null} health
   */
  async met(health) {
    if (this.#reached) return;
    if (health === null) return this.#notice.show(offlineAdvice());
    this.#reached = true;
    if (!(await isKept())) return;
    this.#notice.hide();
    if (this.#bare()) location.reload();
  }
}

function keep() {
  navigator.serviceWorker?.register(WORKER, { scope: SCOPE.href }).catch(() => {});
}

/** Whether this page came from what is kept, without a server. @returns {Promise<boolean>} */
async function isKept() {
  const { controller = null } = navigator.serviceWorker ?? {};
  if (controller === null) return false;
  const answered = new Promise((resolve) => {
    navigator.serviceWorker.addEventListener("message", ({ data }) => resolve(data.kept), { once: true });
  });
  navigator.serviceWorker.startMessages();
  controller.postMessage("kept?");
  return answered;
}
