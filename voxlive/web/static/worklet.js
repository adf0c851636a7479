/**
 * The capture processor: mixes each input to mono, resamples it to 16 kHz and posts s16 messages.
 *
 * Posts `{pcm, peaks, last}`: pcm is Int16Array [640 * inputs] (40 ms), the inputs interleaved; peaks has
 * for each input the highest absolute value since the previous message. An input that brings nothing
 * while another one does is silent. Any message to the port flushes: the rest is posted with `last: true`
 * and the processor ends.
 */
import { Resampler } from "./resampler.js";

const RATE = 16000;
const MESSAGE = 640;

/** One input, as mono at 16 kHz. */
class Input {
  #resampler = new Resampler(sampleRate, RATE);
  #mono = new Float32Array(0);
  output = new Float32Array(this.#resampler.room());
  peak = 0;

  /** @param {Float32Array[]} channels @param {number} frames @returns {number} samples in `output` */
  take(channels, frames) {
    if (this.#mono.length !== frames) {
      this.#mono = new Float32Array(frames);
      const room = Math.max(this.#resampler.room(), this.#resampler.room(frames));
      this.output = new Float32Array(room);
    }
    for (let i = 0; i < frames; i++) {
      let sum = 0;
      for (const channel of channels) {
        sum += channel[i];
        this.peak = Math.max(this.peak, Math.abs(channel[i]));
      }
      this.#mono[i] = channels.length > 0 ? sum / channels.length : 0;
    }
    return this.#resampler.process(this.#mono, this.output);
  }

  /** @returns {number} the last samples in `output` */
  flush() {
    return this.#resampler.flush(this.output);
  }
}

class CaptureProcessor extends AudioWorkletProcessor {
  #inputs;
  #message;
  #filled = 0;
  #ended = false;

  /** @param {AudioWorkletNodeOptions} options */
  constructor({ numberOfInputs = 1 }) {
    super();
    this.#inputs = Array.from({ length: numberOfInputs }, () => new Input());
    this.#message = new Int16Array(MESSAGE * numberOfInputs);
    this.port.onmessage = () => this.#flush();
  }

  /** @param {Float32Array[][]} inputs */
  process(inputs) {
    if (this.#ended) return false;
    const frames = inputs.find((channels) => channels.length > 0)?.[0].length;
    if (frames === undefined) return true;
    // They have one clock, so all bring as many samples.
    let count = 0;
    for (const [at, input] of this.#inputs.entries()) count = input.take(inputs[at] ?? [], frames);
    this.#take(count);
    return true;
  }

  /** @param {number} count */
  #take(count) {
    for (let i = 0; i < count; i++) {
      for (const { output } of this.#inputs) {
        const value = Math.round(output[i] * 32768);
        this.#message[this.#filled++] = Math.max(-32768, Math.min(32767, value));
      }
      if (this.#filled === this.#message.length) this.#post(false);
    }
  }

  #flush() {
    if (this.#ended) return;
    this.#ended = true;
    this.#take(Math.min(...this.#inputs.map((input) => input.flush())));
    this.#post(true);
  }

  /** @param {boolean} last */
  #post(last) {
    const pcm = this.#message.slice(0, this.#filled);
    const peaks = this.#inputs.map(({ peak }) => peak);
    for (const input of this.#inputs) input.peak = 0;
    this.port.postMessage({ pcm, peaks, last }, [pcm.buffer]);
    this.#filled = 0;
  }
}

registerProcessor("capture", CaptureProcessor);
