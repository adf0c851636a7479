/** What a link keeps for as long as its server may not have it: audio, messages, and corrections. */

const MOST_CORRECTED = 100; // segments, as many as a server has captions of

/** What people have made of a session's segments, for those who read along. The newest of each. */
export class KeptCorrections {
  /** @type {Map<number, object>} */
  #messages = new Map();

  /** @param {number} segment @param {number} words of it, the first ones @param {string} text that stands for them */
  put(segment, words, text) {
    const message = { type: "correct", segment, words, text };
    this.#messages.delete(segment);
    this.#messages.set(segment, message);
    if (this.#messages.size > MOST_CORRECTED) {
      this.#messages.delete(/** @type {number} */ (this.#messages.keys().next().value));
    }
    return message;
  }

  /** Another session begins. */
  clear() {
    this.#messages.clear();
  }

  /** As messages, again and again: a server takes what it has already for nothing new. */
  get all() {
    return [...this.#messages.values()];
  }
}

/** Captured audio by position, from the first sample that may still be needed on. */
export class KeptAudio {
  /** @type {Int16Array[]} of `#size` samples each; the last one is filled up to `end` */
  #blocks = [];
  #size = 16_000;
  #channels; // of each sample, interleaved
  #first; // position of the first block
  #most;
  /** @type {Int16Array[]} whose position is not known yet */
  #held = [];
  /** Samples that are held. */
  held = 0;
  /** Position of the oldest sample that is kept. */
  start;
  /** Position after the newest sample: the count of all samples ever captured. */
  end;

  /**
   * @param {number} most samples, each of all channels; beyond them the oldest go
   * @param {number} [first] position
   * @param {number} [channels]
   */
  constructor(most, first = 0, channels = 1) {
    this.#most = most;
    this.#channels = channels;
    this.#first = this.start = this.end = first;
  }

  /** From here on, half of the bound is kept. */
  get middle() {
    return Math.max(this.start, this.end - Math.floor(this.#most / 2));
  }

  /** @param {Int16Array} pcm */
  push(pcm) {
    const channels = this.#channels;
    for (let done = 0; done < pcm.length; ) {
      const at = this.end - this.#first;
      if (at === this.#blocks.length * this.#size) {
        this.#blocks.push(new Int16Array(this.#size * channels));
      }
      const offset = (at % this.#size) * channels;
      const part = pcm.subarray(done, done + this.#size * channels - offset);
      this.#blocks[this.#blocks.length - 1].set(part, offset);
      done += part.length;
      this.end += part.length / channels;
    }
    this.drop(this.end - this.#most);
  }

  /**
   * Audio whose position is not known before `release`; beyond the bound the oldest goes.
   * @param {Int16Array} pcm
   */
  hold(pcm) {
    this.#held.push(pcm);
    this.held += pcm.length / this.#channels;
    while (this.held > this.#most) {
      this.held -= (this.#held.shift()?.length ?? this.held) / this.#channels;
    }
  }

  /** What is held begins here. */
  release() {
    for (const pcm of this.#held) this.push(pcm);
    this.#held = [];
    this.held = 0;
  }

  /** What lies before this position was never here. @param {number} position */
  skipTo(position) {
    if (position <= this.end) return;
    this.#blocks = [];
    this.#first = this.start = this.end = position;
  }

  /** Nothing before this position will be needed. @param {number} position */
  drop(position) {
    this.start = Math.max(this.start, Math.min(position, this.end));
    while (this.#first + this.#size <= this.start) {
      this.#blocks.shift();
      this.#first += this.#size;
    }
  }

  /**
   * A copy of up to `most` samples from position `from`, which must lie within start..end.
   * @param {number} from
   * @param {number} most
   */
  read(from, most) {
    const channels = this.#channels;
    const pcm = new Int16Array(Math.min(most, this.end - from) * channels);
    for (let done = 0; done < pcm.length; ) {
      const at = from + done / channels - this.#first;
      const offset = (at % this.#size) * channels;
      const block = this.#blocks[Math.floor(at / this.#size)];
      const part = block.subarray(offset, offset + pcm.length - done);
      pcm.set(part, done);
      done += part.length;
    }
    return pcm;
  }
}

const MOST_CHARS = 200_000;

/**
 * The numbered messages that came last, while the server's store may not have them: another server
 * that goes on with the session gets them, so that it says nothing of it again. Beyond a bound the
 * oldest go.
 */
export class UnstoredMessages {
  /** @type {{message: any, chars: number}[]} */
  #kept = [];
  #chars = 0;

  /** @param {any[]} [messages] */
  constructor(messages = []) {
    for (const message of messages) this.push(message);
  }

  get list() {
    return this.#kept.map(({ message }) => message);
  }

  /** @param {any} message the next one */
  push(message) {
    const chars = JSON.stringify(message).length;
    this.#kept.push({ message, chars });
    this.#chars += chars;
    while (this.#chars > MOST_CHARS) this.#drop();
  }

  /** The store has those up to this number. @param {number} [upto] without it there is no store */
  stored(upto = Infinity) {
    while (this.#kept.length > 0 && this.#kept[0].message.seq <= upto) this.#drop();
  }

  #drop() {
    this.#chars -= this.#kept.shift()?.chars ?? 0;
  }
}
