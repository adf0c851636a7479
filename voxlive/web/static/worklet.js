/**
 * The capture processor: mixes the input to mono, resamples it to 16 kHz and posts s16 messages.
 *
 * Posts `{pcm, peak, last}`: pcm is Int16Array [640] (40 ms), peak the input's highest absolute
 * value since the previous message. Any message to the port flushes: the rest is posted with
 * `last: true` and the processor ends.
 */
import { Resampler } from "./resampler.js";

const RATE = 16000;
const MESSAGE = 640;

class CaptureProcessor extends AudioWorkletProcessor {
  #resampler = new Resampler(sampleRate, RATE);
  #mono = new Float32Array(0);
  #output = new Float32Array(this.#resampler.room());
  #message = new Int16Array(MESSAGE);
  #filled = 0;
  #peak = 0;
  #ended = false;

  constructor() {
    super();
    this.port.onmessage = () => this.#flush();
  }

  /** @param {Float32Array[][]} inputs */
  process([channels]) {
    if (this.#ended) return false;
    if (channels.length > 0) {
      this.#mix(channels);
      this.#take(this.#resampler.process(this.#mono, this.#output));
    }
    return true;
  }

  /** @param {Float32Array[]} channels */
  #mix(channels) {
    const frames = channels[0].length;
    if (this.#mono.length !== frames) {
      this.#mono = new Float32Array(frames);
      this.#output = new Float32Array(
        Math.max(this.#resampler.room(), this.#resampler.room(frames)),
      );
    }
    for (let i = 0; i < frames; i++) {
      let sum = 0;
      for (const channel of channels) {
        sum += channel[i];
        this.#peak = Math.max(this.#peak, Math.abs(channel[i]));
      }
      this.#mono[i] = sum / channels.length;
    }
  }

  /** @param {number} count */
  #take(count) {
    for (let i = 0; i < count; i++) {
      const value = Math.round(this.#output[i] * 32768);
      this.#message[this.#filled++] = Math.max(-32768, Math.min(32767, value));
      if (this.#filled === MESSAGE) this.#post(false);
    }
  }

  #flush() {
    if (this.#ended) return;
    this.#ended = true;
    this.#take(this.#resampler.flush(this.#output));
    this.#post(true);
  }

  /** @param {boolean} last */
  #post(last) {
    const pcm = this.#message.slice(0, this.#filled);
    this.port.postMessage({ pcm, peak: this.#peak, last }, [pcm.buffer]);
    this.#filled = 0;
    this.#peak = 0;
  }
}

registerProcessor("capture", CaptureProcessor);
