/**
 * Streaming sample-rate conversion with a polyphase windowed sinc.
 *
 * The ratio of the rates is reduced to up/down. Output k stands at input time k * down / up and is
 * a weighted sum of the inputs around it; the weights are phase (k * down) mod up of one
 * Kaiser-windowed sinc (Oppenheim and Schafer, Discrete-Time Signal Processing, section 7.6). All
 * positions are whole numbers, so there is no drift, and the inputs that later outputs still need
 * are carried over, so the cuts between blocks leave no trace.
 */

const STOP_BAND_DB = 80;
const PASS_BAND = 0.9; // of the lower Nyquist frequency, at which the stop band begins
const BLOCK = 1024;

/** Mono float samples from one whole-numbered rate to another. */
export class Resampler {
  #up;
  #down;
  #half; // taps on each side of an output
  #phases; // [up, 2 * half]
  #history;
  #filled = 0;
  #first = 0; // the next output's leftmost input in #history
  #phase = 0;
  #received = 0;
  #produced = 0;

  /**
   * @param {number} from input rate in Hz, a whole number
   * @param {number} to output rate in Hz, a whole number
   */
  constructor(from, to) {
    const divisor = gcd(from, to);
    this.#up = to / divisor;
    this.#down = from / divisor;
    const nyquist = Math.min(from, to) / 2;
    const transition = (2 * Math.PI * nyquist * (1 - PASS_BAND)) / from;
    this.#half = Math.ceil(((STOP_BAND_DB - 7.95) / (2.285 * transition) + 1) / 2);
    const cutoff = (nyquist * (1 + PASS_BAND)) / 2 / from;
    this.#phases = polyphase(this.#up, this.#half, cutoff);
    this.#history = new Float32Array(2 * this.#half + BLOCK);
    this.#filled = this.#half - 1; // silence before the first sample
  }

  /**
   * The room that `process` of n samples, or `flush` when n is left out, needs for its output.
   * @param {number} [n]
   */
  room(n = this.#half) {
    return Math.ceil((n * this.#up) / this.#down) + 1;
  }

  /**
   * Takes input [n], writes what is ready to output and returns how many samples that was.
   * @param {Float32Array} input
   * @param {Float32Array} output at least `room(n)` long
   */
  process(input, output) {
    this.#received += input.length;
    return this.#convert(input, output, Infinity);
  }

  /**
   * Writes the rest: output then counts floor(input count * to / from) in all. Ends the stream.
   * @param {Float32Array} output at least `room()` long
   */
  flush(output) {
    const total = Math.floor((this.#received * this.#up) / this.#down);
    return this.#convert(new Float32Array(this.#half), output, total - this.#produced);
  }

  /** @param {Float32Array} input @param {Float32Array} output @param {number} most */
  #convert(input, output, most) {
    let written = 0;
    for (let from = 0; from < input.length; from += BLOCK) {
      const block = input.length > BLOCK ? input.subarray(from, from + BLOCK) : input;
      this.#history.copyWithin(0, this.#first, this.#filled);
      this.#filled -= this.#first;
      this.#first = 0;
      this.#history.set(block, this.#filled);
      this.#filled += block.length;
      while (written < most && this.#first + 2 * this.#half <= this.#filled) {
        output[written++] = this.#next();
      }
    }
    this.#produced += written;
    return written;
  }

  #next() {
    const phases = this.#phases;
    const history = this.#history;
    const taps = 2 * this.#half;
    const row = this.#phase * taps;
    const first = this.#first;
    let sum = 0;
    for (let tap = 0; tap < taps; tap++) sum += phases[row + tap] * history[first + tap];
    this.#phase += this.#down;
    this.#first += Math.floor(this.#phase / this.#up);
    this.#phase %= this.#up;
    return sum;
  }
}

/**
 * Weights [up, 2 * half], each row for one position between two inputs and with unit gain at DC.
 * @param {number} up
 * @param {number} half
 * @param {number} cutoff in cycles per input sample
 */
function polyphase(up, half, cutoff) {
  const beta = 0.1102 * (STOP_BAND_DB - 8.7);
  const taps = 2 * half;
  const weights = new Float32Array(up * taps);
  const row = new Float64Array(taps);
  for (let phase = 0; phase < up; phase++) {
    let gain = 0;
    for (let tap = 0; tap < taps; tap++) {
      const at = tap - half + 1 - phase / up;
      const inside = 1 - (at / half) ** 2;
      row[tap] = inside > 0 ? sinc(2 * cutoff * at) * bessel(beta * Math.sqrt(inside)) : 0;
      gain += row[tap];
    }
    for (let tap = 0; tap < taps; tap++) weights[phase * taps + tap] = row[tap] / gain;
  }
  return weights;
}

/** @param {number} x */
function sinc(x) {
  return x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
}

/** The modified Bessel function I0 by its power series. @param {number} x */
function bessel(x) {
  let sum = 1;
  let term = 1;
  for (let k = 1; term > sum * 1e-12; k++) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

/** @param {number} a @param {number} b @returns {number} */
function gcd(a, b) {
  return b === 0 ? a : gcd(b, a % b);
}
