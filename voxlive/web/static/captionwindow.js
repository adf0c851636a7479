/**
 * Captions in a small window over other programs: a document of its own (Chromium, Firefox), else a video of
 * a canvas (Safari, older browsers).
 */
import { CaptionLines, dressCaptions, newest } from "./captionlines.js";
import { make } from "./dom.js";

const WIDTH = 720;
const HEIGHT = 240;
const SCALE = 2; // of the video, for sharp letters
const RIGHT_TO_LEFT = /^[^\p{L}]*[\p{Script=Hebrew}\p{Script=Arabic}\p{Script=Syriac}\p{Script=Thaana}]/u;

/**
 * @typedef {import("./settings.js").Settings} Settings
 * @typedef {import("./transcript.js").Transcript} Transcript
 * @typedef {{show: (transcript: Transcript) => void, dress: (settings: Settings) => void, close: () => void}} Floating
 */

export class CaptionWindow {
  #settings;
  #current;
  /** @type {Floating | null} */
  #floating = null;

  /** @param {Settings} settings @param {() => Transcript} current */
  constructor(settings, current) {
    this.#settings = settings;
    this.#current = current;
  }

  /** Whether this browser has one or the other. */
  static get possible() {
    return "documentPictureInPicture" in window || document.pictureInPictureEnabled === true;
  }

  get shown() {
    return this.#floating !== null;
  }

  /** Call it in the click itself. @returns {Promise<boolean>} false where the browser refuses */
  async open() {
    const closed = () => (this.#floating = null);
    try {
      this.#floating =
        "documentPictureInPicture" in window ? await documentWindow(closed) : await videoWindow(closed);
    } catch (error) {
      if (!(error instanceof DOMException)) throw error;
      return false;
    }
    this.dress();
    return true;
  }

  close() {
    this.#floating?.close();
    this.#floating = null;
  }

  /** The newest words; at once, since a page behind others is given no frames. */
  render() {
    this.#floating?.show(this.#current());
  }

  dress() {
    this.#floating?.dress(this.#settings);
    this.render();
  }
}

/** @param {() => void} closed @returns {Promise<Floating>} */
async function documentWindow(closed) {
  const { documentPictureInPicture } = /** @type {any} */ (window);
  /** @type {Window} */
  const opened = await documentPictureInPicture.requestWindow({ width: WIDTH, height: HEIGHT });
  const { document: inside } = opened;
  inside.title = document.title;
  for (const { href } of /** @type {NodeListOf<HTMLLinkElement>} */ (
    document.querySelectorAll('link[rel="stylesheet"]')
  )) {
    const link = inside.createElement("link");
    link.rel = "stylesheet";
    link.href = href;
    inside.head.append(link);
  }
  Object.assign(inside.documentElement.dataset, document.documentElement.dataset);
  const box = make("div", "caption-lines");
  inside.body.className = "caption-window";
  inside.body.append(box);
  opened.addEventListener("pagehide", closed);
  const lines = new CaptionLines(box);
  return {
    show: (transcript) => lines.show(transcript),
    dress: (settings) => {
      dressCaptions(inside.body, settings);
      lines.count = settings.stageLines;
      lines.smooth = settings.stageSmooth;
      lines.reset();
    },
    close: () => opened.close(),
  };
}

/** @param {() => void} closed @returns {Promise<Floating>} */
async function videoWindow(closed) {
  const canvas = document.createElement("canvas");
  canvas.width = WIDTH * SCALE;
  canvas.height = HEIGHT * SCALE;
  const paint = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  // Of the page's colours and letters, as its styles have them.
  const model = make("div", "caption-model");
  document.body.append(model);
  let count = 1;
  let spacing = 1.3;
  const show = (/** @type {Transcript} */ { items, draft }) => {
    const { color, backgroundColor, fontFamily } = getComputedStyle(model);
    const line = (canvas.height - 24 * SCALE) / count;
    paint.fillStyle = backgroundColor;
    paint.fillRect(0, 0, canvas.width, canvas.height);
    paint.fillStyle = color;
    paint.font = `600 ${line / spacing}px ${fontFamily}`;
    const texts = newest(items).map(({ text }) => text);
    if (draft && (draft.apart || texts.length === 0)) texts.push(draft.text.trim());
    else if (draft) texts.push(texts.pop() + draft.text);
    const side = 16 * SCALE;
    const rows = texts.flatMap((text) => wrapped(text, paint, canvas.width - 2 * side));
    for (const [above, { text, rtl }] of rows.slice(-count).reverse().entries()) {
      paint.direction = rtl ? "rtl" : "ltr";
      paint.textAlign = "start";
      const y = canvas.height - 12 * SCALE - (above + 0.27) * line;
      paint.fillText(text, rtl ? canvas.width - side : side, y);
    }
  };
  const video = document.createElement("video");
  video.muted = true;
  video.srcObject = canvas.captureStream();
  const done = () => {
    model.remove();
    video.srcObject = null;
    closed();
  };
  video.addEventListener("leavepictureinpicture", done);
  paint.fillRect(0, 0, canvas.width, canvas.height); // a first picture, which it begins with
  try {
    await video.play();
    await video.requestPictureInPicture();
  } catch (error) {
    done();
    throw error;
  }
  return {
    show,
    dress: (settings) => {
      dressCaptions(model, settings);
      count = settings.stageLines;
      spacing = settings.stageSpacing;
    },
    close: () => {
      if (document.pictureInPictureElement === video) void document.exitPictureInPicture();
      done();
    },
  };
}

/**
 * Its lines.
 * @param {string} text @param {CanvasRenderingContext2D} paint @param {number} width
 */
function wrapped(text, paint, width) {
  const rtl = RIGHT_TO_LEFT.test(text);
  const words = new Intl.Segmenter(undefined, { granularity: "word" }).segment(text);
  const lines = [""];
  for (const { segment } of words) {
    const longer = lines[lines.length - 1] + segment;
    if (paint.measureText(longer.trimEnd()).width <= width) lines[lines.length - 1] = longer;
    else lines.push(segment.trimStart());
  }
  return lines.map((line) => ({ text: line.trim(), rtl }));
}
