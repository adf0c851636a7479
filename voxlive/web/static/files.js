/** Files from the picker or dropped on the page: one after the other, with the progress of each. */
import { byId, clock } from "./dom.js";
import { uploadAdvice } from "./messages.js";
import { Upload, UploadError } from "./upload.js";
import { say } from "./words.js";

const TICK_MS = 500;

/**
 * @typedef {import("./messages.js").Advice} Advice
 * @typedef {object} FileActions
 * @property {() => boolean | undefined} locked whether a key is needed, which is asked for
 * @property {(why: string) => Promise<boolean>} room whether what is shown may go
 * @property {() => void} begin with one
 * @property {(text: string) => void} tell what is going on, in words
 * @property {(file: File, answer: import("./upload.js").Answer) => void} take its transcript
 * @property {() => void} end of one
 * @property {(advice: Advice) => void} refused what to do about those that are
 */

/** @param {() => boolean} allowed whether a file is welcome now @param {FileActions} actions */
export function setUpFiles(allowed, actions) {
  const chosen = (/** @type {File[]} */ files) => void transcribeAll(files, actions);
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

/** Until one is cancelled. @param {File[]} files @param {FileActions} actions */
async function transcribeAll(files, actions) {
  if (actions.locked()) return;
  /** @type {Advice[]} */
  const refused = [];
  for (const [at, file] of files.entries()) {
    const place = files.length > 1 ? say("files.place", { at: at + 1, of: files.length }) : "";
    if (!(await transcribe(file, place, refused, actions))) break;
  }
  const [first, ...others] = refused;
  if (!first) return;
  const steps = others.flatMap((one) => [one.title, ...one.steps]);
  actions.refused({ title: first.title, steps: [...first.steps, ...steps] });
}

/**
 * Its transcript takes the place of the one shown, so that its times begin at zero.
 * @param {File} file
 * @param {string} place among several, in words
 * @param {Advice[]} refused
 * @param {FileActions} actions
 * @returns {Promise<boolean>} false if it is cancelled
 */
async function transcribe(file, place, refused, actions) {
  if (!(await actions.room(say("files.replaces", { name: file.name })))) return false;
  let going = true;
  actions.begin();
  try {
    const answer = await new Job(place).run(file, actions.tell);
    if (answer !== null) actions.take(file, answer);
    else going = false;
  } catch (error) {
    if (!(error instanceof UploadError)) throw error;
    refused.push(uploadAdvice(file.name, error.status, error.message));
  }
  actions.end();
  return going;
}

/** One file on its way: sends it, shows how far it is, can be cancelled. */
class Job {
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
