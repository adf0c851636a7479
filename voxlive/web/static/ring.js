/** The newest captured audio, addressed by sample position; at its bound the oldest goes first. */
export class PcmRing {
  #samples;
  #end = 0;

  /** @param {number} capacity in samples */
  constructor(capacity) {
    this.#samples = new Int16Array(capacity);
  }

  /** Position of the oldest sample that is still here. */
  get start() {
    return Math.max(0, this.#end - this.#samples.length);
  }

  /** Position after the newest sample: the count of all samples ever pushed. */
  get end() {
    return this.#end;
  }

  /** @param {Int16Array} pcm at most the ring's capacity */
  push(pcm) {
    const at = this.#end % this.#samples.length;
    const head = Math.min(pcm.length, this.#samples.length - at);
    this.#samples.set(pcm.subarray(0, head), at);
    this.#samples.set(pcm.subarray(head), 0);
    this.#end += pcm.length;
  }

  /**
   * A copy of up to `most` samples from position `from`, which must lie within start..end.
   * @param {number} from
   * @param {number} most
   */
  read(from, most) {
    const count = Math.min(most, this.#end - from);
    const at = from % this.#samples.length;
    const head = Math.min(count, this.#samples.length - at);
    const pcm = new Int16Array(count);
    pcm.set(this.#samples.subarray(at, at + head));
    pcm.set(this.#samples.subarray(0, count - head), head);
    return pcm;
  }
}
