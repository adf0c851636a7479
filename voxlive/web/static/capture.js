/** Sound from a microphone, a tab or the system, as mono s16 at 16 kHz. */

const FLUSH_MS = 500;
const RESUME_MS = 5000;
const WORKLET = new URL("./worklet.js", import.meta.url);

/**
 * @typedef {import("./settings.js").Settings} Settings
 * @typedef {object} CaptureListener
 * @property {(pcm: Int16Array, peak: number) => void} audio about every 40 ms
 * @property {(kind: string) => void} ended the source is gone: a kind of CaptureError
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
  /** @type {MediaStream | undefined} */
  #stream;
  /** @type {MediaStreamAudioSourceNode | undefined} */
  #source;
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

  /** Asks for the source and begins. @param {Settings} settings @throws {CaptureError} */
  async open(settings) {
    try {
      await this.use(settings);
      await this.#load();
      await this.#resume();
      this.#begin();
    } catch (error) {
      this.#release();
      throw error;
    }
  }

  /**
   * Goes on with another source, in the same recording.
   * @param {Settings} settings
   * @throws {CaptureError}
   */
  async use(settings) {
    const stream = await (settings.source === "display" ? shared() : microphone(settings));
    if (this.#context.state === "closed") return stopTracks(stream);
    const [track] = stream.getAudioTracks();
    const kind = settings.source === "display" ? "unshared" : "unplugged";
    track.onended = () => this.#listener.ended(kind);
    const source = this.#connect(stream);
    this.#source?.disconnect();
    if (this.#stream) stopTracks(this.#stream);
    this.#source = source;
    this.#stream = stream;
    if (this.#node) source.connect(this.#node);
  }

  /** The rest of the sound has been handed over when this resolves. */
  async stop() {
    const node = this.#node;
    if (node) {
      const flushed = new Promise((resolve) => (this.#flushed = () => resolve(undefined)));
      // A context that the system has suspended answers nothing.
      const timeout = new Promise((resolve) => setTimeout(resolve, FLUSH_MS));
      this.#source?.disconnect();
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
    const node = new AudioWorkletNode(this.#context, "capture", { numberOfInputs: 1 });
    node.port.onmessage = ({ data: { pcm, peak, last } }) => {
      this.#listener.audio(pcm, peak);
      if (last) this.#flushed();
    };
    this.#source?.connect(node);
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
    if (this.#stream) stopTracks(this.#stream);
    this.#context.onstatechange = null;
    if (this.#context.state !== "closed") void this.#context.close();
  }
}

/** @param {Settings} settings */
async function microphone({ source, echoCancellation, noiseSuppression, autoGainControl }) {
  const processing = { echoCancellation, noiseSuppression, autoGainControl };
  const device = source ? { deviceId: { exact: source } } : {};
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
