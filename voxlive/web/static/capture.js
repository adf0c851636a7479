/**
 * Sound from a microphone, a tab or the system, as mono s16 at 16 kHz; or from a microphone and what is
 * shared together: two channels, interleaved, of which the microphone is the first.
 */

const FLUSH_MS = 500;
const RESUME_MS = 5000;
const WORKLET = new URL("./worklet.js", import.meta.url);

/**
 * @typedef {import("./settings.js").Settings} Settings
 * @typedef {object} CaptureListener
 * @property {(pcm: Int16Array, peak: number) => void} audio about every 40 ms; the peak is the first
 *   channel's
 * @property {(kind: string) => void} ended the source is gone: a kind of CaptureError
 * @property {(kind: string) => void} alone the microphone goes on without what is shared: why
 */

/** No sound can be had; `kind` is a key of the advice in messages.js. */
export class CaptureError extends Error {
  /** @param {string} kind @param {string} [detail] what the browser said */
  constructor(kind, detail = "") {
    super(detail);
    this.kind = kind;
  }
}

/** Whether the sound of a tab or of the system can be shared here. */
export function canShare() {
  return (
    navigator.mediaDevices?.getDisplayMedia !== undefined &&
    !/Firefox|Mobi/.test(navigator.userAgent)
  );
}

/** Whether that can be had beside a microphone: in Chromium alone. */
export function canShareBeside() {
  return canShare() && /Chrom(e|ium)\//.test(navigator.userAgent);
}

/** The microphones; they have names only once the page may use one. */
export async function microphones() {
  const devices = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
  const aliases = ["default", "communications"];
  return devices.filter(
    (device) => device.kind === "audioinput" && !aliases.includes(device.deviceId),
  );
}

export class Capture {
  #context;
  #listener;
  /** @type {AudioWorkletNode | undefined} */
  #node;
  /** @type {({stream: MediaStream, source: MediaStreamAudioSourceNode} | undefined)[]} by input */
  #inputs = [undefined];
  /** @type {() => void} */
  #flushed = () => {};

  /**
   * Call it in the click itself: some browsers let no sound begin later.
   * @param {CaptureListener} listener
   */
  constructor(listener) {
    if (globalThis.AudioWorkletNode === undefined) throw new CaptureError("unsupported");
    this.#listener = listener;
    this.#context = new AudioContext({ latencyHint: "interactive" });
  }

  /**
   * Asks for the source and begins.
   * @param {Settings} settings
   * @param {boolean} [again] a session goes on: what is shared may be missing
   * @throws {CaptureError}
   */
  async open(settings, again = false) {
    try {
      if (beside(settings)) {
        this.#inputs = [undefined, undefined];
        // First, since browsers let a page ask for it right after the click alone.
        await this.#shareBeside(again);
      }
      const display = settings.source === "display";
      if (display) await this.use(settings);
      await this.#load();
      await this.#resume();
      this.#begin();
      // Last, since it runs at once: what is said before there is a way for it would be lost.
      if (!display) await this.use(settings);
    } catch (error) {
      this.#release();
      throw error;
    }
  }

  /**
   * Goes on with another source, or another microphone beside what is shared, in the same recording.
   * @param {Settings} settings
   * @throws {CaptureError}
   */
  async use(settings) {
    const display = settings.source === "display" && this.#inputs.length === 1;
    const stream = await (display ? shared() : microphone(settings));
    this.#take(0, stream, () => this.#listener.ended(display ? "unshared" : "unplugged"));
  }

  /** Shares sound beside the microphone, once more. @throws {CaptureError} */
  async share() {
    const stream = await shared();
    this.#take(1, stream, () => {
      this.#drop(1);
      this.#listener.alone("alone");
    });
  }

  /** @param {boolean} again */
  async #shareBeside(again) {
    try {
      await this.share();
    } catch (error) {
      if (!again || !(error instanceof CaptureError)) throw error;
      this.#listener.alone("unshared-again");
    }
  }

  /** @param {number} input @param {MediaStream} stream @param {() => void} ended */
  #take(input, stream, ended) {
    if (this.#context.state === "closed") return stopTracks(stream);
    const [track] = stream.getAudioTracks();
    track.onended = ended;
    const source = this.#connect(stream);
    this.#drop(input);
    this.#inputs[input] = { stream, source };
    if (this.#node) source.connect(this.#node, 0, input);
  }

  /** @param {number} input */
  #drop(input) {
    const { stream, source } = this.#inputs[input] ?? {};
    this.#inputs[input] = undefined;
    source?.disconnect();
    if (stream) stopTracks(stream);
  }

  /** The rest of the sound has been handed over when this resolves. */
  async stop() {
    const node = this.#node;
    if (node) {
      const flushed = new Promise((resolve) => (this.#flushed = () => resolve(undefined)));
      // A context that the system has suspended answers nothing.
      const timeout = new Promise((resolve) => setTimeout(resolve, FLUSH_MS));
      for (const input of this.#inputs) input?.source.disconnect();
      node.port.postMessage("flush");
      await Promise.race([flushed, timeout]);
    }
    this.#release();
  }

  /** Some browsers wait for an audio output without an end. */
  async #resume() {
    const late = new Promise((_, reject) => {
      setTimeout(() => reject(new CaptureError("output")), RESUME_MS);
    });
    await Promise.race([this.#context.resume(), late]);
  }

  async #load() {
    try {
      await this.#context.audioWorklet.addModule(WORKLET);
    } catch (error) {
      throw new CaptureError("unreachable", String(error)); // it comes from the server
    }
  }

  #begin() {
    const numberOfInputs = this.#inputs.length;
    const node = new AudioWorkletNode(this.#context, "capture", { numberOfInputs });
    node.port.onmessage = ({ data: { pcm, peaks, last } }) => {
      this.#listener.audio(pcm, peaks[0]);
      if (last) this.#flushed();
    };
    for (const [at, input] of this.#inputs.entries()) input?.source.connect(node, 0, at);
    // It writes silence; without a way to the output, not every browser runs it.
    node.connect(this.#context.destination);
    this.#node = node;
    this.#context.onstatechange = () => {
      if (this.#context.state === "suspended") void this.#context.resume();
    };
  }

  /** @param {MediaStream} stream */
  #connect(stream) {
    try {
      return this.#context.createMediaStreamSource(stream);
    } catch (error) {
      stopTracks(stream);
      throw new CaptureError("rate", String(error));
    }
  }

  #release() {
    for (const input of this.#inputs.keys()) this.#drop(input);
    this.#context.onstatechange = null;
    if (this.#context.state !== "closed") void this.#context.close();
  }
}

/** Whether what is shared is to be a source beside the microphone. @param {Settings} settings */
export function beside({ source, together }) {
  return together && source !== "display" && canShareBeside();
}

/** @param {Settings} settings */
async function microphone({ source, echoCancellation, noiseSuppression, autoGainControl }) {
  const processing = { echoCancellation, noiseSuppression, autoGainControl };
  const device = source && source !== "display" ? { deviceId: { exact: source } } : {};
  try {
    return await navigator.mediaDevices.getUserMedia({
      audio: { channelCount: 1, ...processing, ...device },
    });
  } catch (error) {
    throw new CaptureError(await reason(/** @type {DOMException} */ (error)), String(error));
  }
}

async function shared() {
  const options = { video: true, audio: true, systemAudio: "include", windowAudio: "system" };
  /** @type {MediaStream} */
  let stream;
  try {
    stream = await navigator.mediaDevices.getDisplayMedia(options);
  } catch (error) {
    throw new CaptureError("cancelled", String(error));
  }
  for (const track of stream.getVideoTracks()) track.stop();
  if (stream.getAudioTracks().length === 0) throw new CaptureError("silent");
  return stream;
}

/** @param {DOMException} error @returns {Promise<string>} */
async function reason({ name, message }) {
  if (name === "NotFoundError") return "missing";
  if (name === "OverconstrainedError") return "gone";
  if (name !== "NotAllowedError" && name !== "SecurityError") return "busy";
  if (/system/i.test(message)) return "system";
  try {
    const permission = { name: /** @type {PermissionName} */ ("microphone") };
    return (await navigator.permissions.query(permission)).state === "prompt"
      ? "dismissed"
      : "refused";
  } catch {
    return "refused"; // This browser does not tell the two apart.
  }
}

/** @param {MediaStream} stream */
function stopTracks(stream) {
  for (const track of stream.getTracks()) {
    track.onended = null;
    track.stop();
  }
}
