/**
 * What went wrong, in plain sentences that say what to do. Parts in `backticks` are to be typed. Texts
 * by code: `live.CODE` for a live session's failure by the protocol's codes, `capture.KIND` for that
 * to get sound by the kinds of CaptureError, `wordless.KIND` for sound without a word, `upload.STATUS` for a
 * refused file; the steps to take are `live.CODE.1` and so on.
 *
 * @typedef {{title: string, steps: string[]}} Advice
 */
import { known, number, say, span, timeOf } from "./words.js";

/**
 * @param {"live" | "capture" | "wordless"} family @param {string} code
 * @param {Record<string, string>} [values] that its title names
 * @returns {Advice}
 */
function advice(family, code, values = {}) {
  const key = known(`${family}.${code}`) ? code : "other";
  const steps = [];
  for (let at = 1; known(`${family}.${key}.${at}`); at++) steps.push(say(`${family}.${key}.${at}`));
  return { title: say(`${family}.${key}`, { code, ...values }), steps };
}

/**
 * @param {import("./link.js").Failure} failure
 * @param {number} [sources] of the session: each takes a place of the server
 * @returns {Advice}
 */
export function liveAdvice({ code, message }, sources = 1) {
  const { title, steps } = advice("live", code === "server_full" && sources > 1 ? "places" : code);
  return { title, steps: message ? [say("advice.server-says", { message }), ...steps] : steps };
}

/** @param {string} kind @returns {Advice} */
export function captureAdvice(kind) {
  return advice(kind === "unreachable" ? "live" : "capture", kind);
}

/**
 * Why a recording has no words, and what to check.
 * @param {import("./recording.js").Wordless} kind @param {number} recorded seconds @returns {Advice}
 */
export function wordlessAdvice(kind, recorded) {
  return advice("wordless", kind, { seconds: number(recorded, 1) });
}

/**
 * What to know of a transcribed file: parts that do not decode, for example.
 * @param {string} name @param {{message: string}[]} warnings @returns {Advice}
 */
export function warningAdvice(name, warnings) {
  const steps = warnings.map(({ message }) => message[0].toUpperCase() + message.slice(1) + ".");
  return { title: say("file.warnings", { name, count: steps.length }), steps };
}

/** @param {string} name of the file @param {number} status 0: no answer @param {string} said by the server */
export function uploadAdvice(name, status, said) {
  const message = `${said.replace(/\.$/, "")}.`;
  const step = say(known(`upload.${status}`) ? `upload.${status}` : "upload.other");
  return {
    title: say("file.failed", { name }),
    steps: said === "" ? [step] : [say("advice.server-says", { message }), step],
  };
}

/** Where the page was started without a server. @returns {Advice} */
export function offlineAdvice() {
  return { title: say("live.unreachable"), steps: [say("offline.again"), say("offline.kept")] };
}

/** Why there is no microphone on an origin that is not secure. @param {Location} location */
export function insecureAdvice({ host, hostname, port }) {
  const at = port || "80";
  const address = `\`http://localhost:${at}\``;
  const tunnel = `\`ssh -L ${at}:localhost:${at} ${hostname}\``;
  const proxy = `\`caddy reverse-proxy --from ${hostname} --to localhost:${at}\``;
  return {
    title: say("insecure"),
    steps: [
      say("insecure.why", { host }),
      say("insecure.https", { address: `\`https://${host}\`` }),
      say("insecure.local", { address }),
      say("insecure.tunnel", { command: tunnel, address }),
      say("insecure.proxy", { command: proxy }),
      say("insecure.upload"),
    ],
  };
}

/** Why a session broke off, for as long as another is tried. @param {string} code */
function brokenText(code) {
  return say(known(`broken.${code}`) ? `broken.${code}` : "broken.lost");
}

/**
 * While there is no connection.
 * @param {string} code why @param {number} unsent @param {number} dropped seconds of sound
 */
export function waitingText(code, unsent, dropped) {
  const why = brokenText(code);
  const seconds = number(Math.max(0, unsent - dropped));
  return dropped < 0.5
    ? say("waiting.kept", { why, seconds })
    : say("waiting.lost", { why, seconds, lost: number(dropped) });
}

/** What the server does not have of corrections. @param {string} why @returns {Advice} */
export function unsentAdvice(why) {
  return { title: say("correct.unsent"), steps: [say("correct.unsent-step", { why })] };
}

/** The mark where a session goes on. @param {string} updated when it was heard of last, ISO 8601 */
export function continuedText(updated) {
  const gap = (Date.now() - Date.parse(updated)) / 1000;
  return say("session.continued", { time: timeOf(new Date()), gap: span(gap) });
}

/** The mark where a session failed. @param {string} title of the advice @param {number} missing seconds of sound */
export function failureText(title, missing) {
  if (missing < 1) return say("session.failed", { title });
  return say("session.failed-missing", { title, seconds: number(missing) });
}

/** The mark where sound is missing. @param {import("./link.js").Gap} gap */
export function gapText({ lost, code }) {
  return say("gap", { why: brokenText(code), seconds: number(lost) });
}
