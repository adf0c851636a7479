/** A sentence in place of a microphone: it is heard, and goes to the server as it is heard. */
import { CaptureError } from "./capture.js";

const CLIP = new URL("./demo.mp3", import.meta.url);
const RATE = 16_000;
const BLOCK_MS = 40;

/** What Recording knows of a Capture. */
export class Demo {
  #listener;
  #context = new AudioContext();
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #timer;

  /** Call it in the click itself. @param {import("./capture.js").CaptureListener} listener */
  constructor(listener) {
    this.#listener = listener;
  }

  /** @throws {CaptureError} */
  async open() {
    const audio = await clip();
    this.#play(audio);
    const samples = audio.getChannelData(0);
    const began = performance.now();
    let sent = 0;
    this.#timer = setInterval(() => {
      const heard = Math.round(((performance.now() - began) * RATE) / 1000);
      const block = samples.subarray(sent, heard);
      sent += block.length;
      let peak = 0;
      const pcm = Int16Array.from(block, (value) => {
        peak = Math.max(peak, Math.abs(value));
        return Math.max(-1, Math.min(1, value)) * 32_767;
      });
      this.#listener.audio(pcm, peak);
      if (sent < samples.length) return;
      clearInterval(this.#timer);
      this.#listener.ended("played");
    }, BLOCK_MS);
  }

  /** There is no other source. */
  async use() {}

  async stop() {
    clearInterval(this.#timer);
    if (this.#context.state !== "closed") void this.#context.close();
  }

  /** Without a loudspeaker it is read all the same. @param {AudioBuffer} audio */
  #play(audio) {
    const source = this.#context.createBufferSource();
    source.buffer = audio;
    source.connect(this.#context.destination);
    source.start();
    void this.#context.resume();
  }
}

async function clip() {
  try {
    const response = await fetch(CLIP);
    return await new OfflineAudioContext(1, 1, RATE).decodeAudioData(await response.arrayBuffer());
  } catch (error) {
    throw new CaptureError("unreachable", String(error));
  }
}
