/** How the session is getting on, in one line beside its state and in the title of the tab. */
import { clock } from "./dom.js";
import { waitingText } from "./messages.js";
import { say } from "./words.js";

const TICK_MS = 250;
const REMARK_MS = 6000;
const QUIET_S = 5; // without any message from the server, worth saying

/** @typedef {import("./recording.js").State} State */

export class ProgressLine {
  /** Of what is spoken, by name. */
  language = "";
  #session;
  #dock;
  /** @type {State} */
  #state = "idle";
  #remark = { text: "", until: 0 };

  /** @param {import("./session.js").Session} session @param {import("./dock.js").Dock} dock */
  constructor(session, dock) {
    this.#session = session;
    this.#dock = dock;
    setInterval(() => this.show(), TICK_MS);
  }

  /** @param {State} state */
  enter(state) {
    this.#state = state;
    this.#dock.detail("");
    this.show();
  }

  /** A word beside the clock, for a moment. @param {string} text */
  note(text) {
    this.#remark = { text, until: performance.now() + REMARK_MS };
    this.show();
  }

  show() {
    const { recording, transcript, duration, broken } = this.#session;
    this.#session.tick();
    if (this.#state === "listening" && recording) {
      const { seconds, behind } = recording;
      this.#dock.progress(seconds, behind, this.#beside(recording), this.language);
      this.#dock.late(recording.quiet >= QUIET_S);
    } else if ((this.#state === "reconnecting" || this.#state === "resending") && recording) {
      const { seconds, unsent, dropped } = recording;
      this.#dock.detail(`${clock(seconds)} · ${waitingText(broken, unsent, dropped)}`);
    } else if (this.#state === "stopped") {
      const words = transcript.wordCount;
      this.#dock.detail(say("transcript.length", { count: words, clock: clock(duration) }));
    }
    this.#entitle();
  }

  /** What stands beside the clock. @param {import("./recording.js").Recording} recording */
  #beside({ quiet, paused, muted }) {
    if (quiet >= QUIET_S) return say("state.quiet", { seconds: Math.floor(quiet) });
    if (paused) return say("remark.paused");
    if (muted) return say("remark.muted");
    return performance.now() < this.#remark.until ? this.#remark.text : "";
  }

  #entitle() {
    const at = clock(this.#session.seconds);
    const paused = this.#session.recording?.paused;
    /** @type {Partial<Record<State, string>>} */
    const titles = {
      listening: say(paused ? "title.paused" : "title.listening", { clock: at }),
      reconnecting: say("title.waiting"),
      resending: say("title.waiting"),
      finishing: say("title.working"),
      uploading: say("title.working"),
    };
    const title = titles[this.#state] ?? "voxlive";
    if (document.title !== title) document.title = title;
  }
}
