/** Files from the picker or dropped on the page, and the progress of the one being transcribed. */
import { byId, clock } from "./dom.js";
import { Upload } from "./upload.js";
import { say } from "./words.js";

const TICK_MS = 500;

/**
 * @param {() => boolean} allowed whether a file is welcome now
 * @param {(files: File[]) => void} chosen
 */
export function setUpFiles(allowed, chosen) {
  const input = byId("file");
  const drop = byId("drop");
  for (const id of ["upload", "browse"]) byId(id).addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    const files = [...input.files];
    input.value = "";
    if (files.length > 0) chosen(files);
  });
  addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.hidden = !event.dataTransfer?.types.includes("Files") || !allowed();
  });
  addEventListener("dragleave", ({ relatedTarget }) => {
    if (relatedTarget === null) drop.hidden = true;
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    drop.hidden = true;
    const files = [...(event.dataTransfer?.files ?? [])];
    if (files.length > 0 && allowed()) chosen(files);
  });
}

/** One file on its way: sends it, shows how far it is, can be cancelled. */
export class Job {
  #upload = new Upload();
  #bar = byId("job-progress");
  #box = byId("job");
  #cancel = byId("job-cancel");
  #share = 0;
  /** @type {string} */
  #place;

  /** @param {string} [place] of the file among several, in words */
  constructor(place = "") {
    this.#place = place;
  }

  /**
   * @param {File} file
   * @param {(text: string) => void} tell what is going on, in words
   * @returns {Promise<import("./upload.js").Answer | null>} null when cancelled
   * @throws {import("./upload.js").UploadError}
   */
  async run(file, tell) {
    const began = performance.now();
    const show = () => {
      const sending = this.#share < 1;
      if (sending) this.#bar.value = this.#share;
      else this.#bar.removeAttribute("value");
      const seconds = (performance.now() - began) / 1000;
      const far = sending ? say("files.sent", { percent: Math.round(this.#share * 100) }) : clock(seconds);
      tell([file.name, this.#place, far].filter(Boolean).join(" · "));
    };
    const stop = () => this.#upload.cancel();
    const timer = setInterval(show, TICK_MS);
    this.#cancel.addEventListener("click", stop);
    this.#box.hidden = false;
    show();
    try {
      return await this.#upload.send(file, (share) => (this.#share = share));
    } finally {
      clearInterval(timer);
      this.#cancel.removeEventListener("click", stop);
      this.#box.hidden = true;
    }
  }
}
