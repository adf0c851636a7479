/**
 * What went wrong, in plain sentences that say what to do. Parts in `backticks` are to be typed.
 *
 * @typedef {{title: string, steps: string[]}} Advice
 */

/** @type {Record<string, Advice>} failures of a live session, by the protocol's codes */
const LIVE = {
  unreachable: {
    title: "The server cannot be reached",
    steps: [
      "Check that `voxlive serve` is still running and that this machine is on its network.",
      "If there is a reverse proxy, it has to pass WebSockets on. Then start again.",
    ],
  },
  lost: {
    title: "The connection was lost and did not come back",
    steps: ["Check the network, then start again: the transcript goes on where it ended."],
  },
  no_answer: {
    title: "The server stopped answering",
    steps: ["It may be overloaded. Wait a moment and start again, or look at the server's log."],
  },
  bad_server: {
    title: "The server answered with something else than live transcription",
    steps: ["Reload this page, in case the server was updated. Check what the address leads to."],
  },
  server_full: {
    title: "Every place on this server is taken",
    steps: ["Start again when someone has stopped. Files have to wait for a free place too."],
  },
  engine_failed: {
    title: "Recognition failed on the server",
    steps: [
      "Start again: the transcript goes on where it ended.",
      "If it happens again, the server's log and `voxlive doctor` say why.",
    ],
  },
  vad_failed: {
    title: "Hearing speech failed on the server",
    steps: ["Start again. If it happens again, the server's log and `voxlive doctor` say why."],
  },
  internal: {
    title: "The server failed in this session",
    steps: ["Start again: the transcript goes on where it ended. The server's log says more."],
  },
  shutting_down: {
    title: "The server was shut down",
    steps: ["Everything it heard is here. Start again when the server is back."],
  },
  slow_client: {
    title: "This browser could not keep up with the server",
    steps: ["Close other tabs or programs that keep this machine busy, then start again."],
  },
  invalid_api_key: {
    title: "This server needs a key",
    steps: ["Ask whoever runs the server for one, then press Start again."],
  },
  forbidden: {
    title: "This key is not for live sessions",
    steps: ["Ask whoever runs the server for another one."],
  },
  too_many_sessions: {
    title: "All sessions of this key are in use",
    steps: ["End one of them, or wait, then start again."],
  },
  rate_limit_exceeded: {
    title: "The server takes no more sessions for now",
    steps: ["Wait a minute, then start again."],
  },
  session_expired: {
    title: "The session has had its time",
    steps: ["Start again: the transcript goes on where it ended."],
  },
  idle: {
    title: "The server heard nothing for a long time",
    steps: ["Start again: the transcript goes on where it ended."],
  },
  taken_over: {
    title: "Another client took this session over",
    steps: ["Start again: the transcript goes on where it ended."],
  },
  too_big: {
    title: "The server refused a message as too big",
    steps: ["Reload this page, in case the server was updated, then start again."],
  },
  bad_start: {
    title: "The server did not accept these settings",
    steps: ["Reload this page, in case the server was updated, then start again."],
  },
  unsupported_option: {
    title: "The model cannot do what the settings ask for",
    steps: ["Change the settings, then start again."],
  },
  bad_audio: {
    title: "The server could not read the sound",
    steps: ["Choose another source, then start again."],
  },
};

/** @type {Record<string, Advice>} failures to get sound, by the kinds of CaptureError */
const CAPTURE = {
  refused: {
    title: "The microphone is blocked for this page",
    steps: [
      "Click the icon at the left end of the address bar and allow the microphone.",
      "Then press Start again. Some browsers want the page to be reloaded first.",
    ],
  },
  dismissed: {
    title: "The microphone was not allowed",
    steps: ["Press Start again and answer the browser's question with Allow."],
  },
  system: {
    title: "The system does not let this browser use the microphone",
    steps: [
      "macOS: System Settings, Privacy & Security, Microphone: switch this browser on.",
      "Windows: Settings, Privacy & security, Microphone: let desktop apps use it.",
      "Then restart the browser.",
    ],
  },
  missing: {
    title: "No microphone was found",
    steps: ["Plug one in or switch it on, then press Start again. Uploading a file works without."],
  },
  gone: {
    title: "The chosen microphone is not there",
    steps: ["Plug it in again, or choose another one beside the level meter."],
  },
  busy: {
    title: "The microphone is in use",
    steps: ["Close other programs that record or call, then press Start again."],
  },
  unplugged: {
    title: "The microphone was disconnected",
    steps: ["Everything up to that moment is here. Plug it in and start again."],
  },
  unshared: {
    title: "Sharing has ended",
    steps: ["Everything up to that moment is here. Start again to share once more."],
  },
  cancelled: {
    title: "Nothing was shared",
    steps: ["Press Start again and choose a tab, a window or the screen."],
  },
  silent: {
    title: "What you shared comes without sound",
    steps: [
      "Start again, choose a browser tab and switch on “Also share tab audio”.",
      "The sound of the whole computer can be shared on Windows and ChromeOS only.",
    ],
  },
  rate: {
    title: "This browser cannot record that microphone at its sample rate",
    steps: ["Choose another microphone, or open the page in Chrome, Edge or Safari."],
  },
  output: {
    title: "The browser does not begin to record",
    steps: [
      "It waits for an audio output: plug in or switch on loudspeakers or headphones, then start again.",
      "Chrome, Edge and Safari record without one.",
    ],
  },
  unreachable: LIVE.unreachable,
  unsupported: {
    title: "This browser cannot record sound for this page",
    steps: ["Use a current version of Chrome, Edge, Firefox or Safari."],
  },
};

/** @type {Record<number, string>} what to do about a refused file, by HTTP status */
const UPLOAD = {
  0: "The server cannot be reached. Check that it is running, then try again.",
  400: "Is it an audio or video file, and whole?",
  401: "Reload this page: it asks for the server's key.",
  403: "This key is not for files: ask whoever runs the server for another one.",
  404: "Reload this page: the server runs another model by now.",
  413: "Cut it into parts, or transcribe it on the server: `voxlive transcribe FILE`.",
  429: "Wait a minute, then try again.",
  422: "The model that runs here cannot do this.",
  501: "The server lacks a part that this needs: see `voxlive doctor` there.",
  503: "Every place on the server is taken. Try again when someone has stopped.",
  507: "The server has not enough memory for this.",
};

/** @param {import("./link.js").Failure} failure @returns {Advice} */
export function liveAdvice({ code, message }) {
  const known = LIVE[code] ?? { title: `The session ended (${code})`, steps: ["Start again."] };
  return message ? { ...known, steps: [`The server says: ${message}`, ...known.steps] } : known;
}

/** @param {string} kind @returns {Advice} */
export function captureAdvice(kind) {
  return CAPTURE[kind];
}

/**
 * What to know of a transcribed file: parts that do not decode, for example.
 * @param {string} name @param {{message: string}[]} warnings @returns {Advice}
 */
export function warningAdvice(name, warnings) {
  const steps = warnings.map(({ message }) => message[0].toUpperCase() + message.slice(1) + ".");
  return { title: `${name} was transcribed, with ${steps.length > 1 ? "warnings" : "a warning"}`, steps };
}

/** @param {string} name of the file @param {number} status @param {string} said by the server */
export function uploadAdvice(name, status, said) {
  const quoted = said && `The server says: ${said.replace(/\.$/, "")}.`;
  const steps = [quoted, UPLOAD[status] ?? "The server's log says more."].filter(Boolean);
  return { title: `${name} was not transcribed`, steps };
}

/** Why there is no microphone on an origin that is not secure. @param {Location} location */
export function insecureAdvice({ host, hostname, port }) {
  const at = port || "80";
  const local = `\`http://localhost:${at}\``;
  const tunnel = `\`ssh -L ${at}:localhost:${at} ${hostname}\``;
  const proxy = `\`caddy reverse-proxy --from ${hostname} --to localhost:${at}\``;
  return {
    title: "The browser gives this page no microphone",
    steps: [
      "Browsers allow it on https pages and on localhost only; " +
        `this page came over plain http from ${host}.`,
      `Start the server with \`--https\` and open \`https://${host}\` here; the browser will ask ` +
        "once whether to trust the certificate that the server made.",
      `Or, on the machine that runs the server, open ${local}.`,
      `Or run ${tunnel} on this one and open ${local}.`,
      `For everyone, put a site with a certificate in front of it: ${proxy}.`,
      "Uploading a file works here as it is.",
    ],
  };
}

/** @type {Record<string, string>} why a session broke off, for as long as another is tried */
const BROKEN = {
  no_answer: "The server does not answer",
  shutting_down: "The server was shut down",
  server_full: "Every place on the server is taken",
  engine_failed: "Recognition failed on the server",
  vad_failed: "Hearing speech failed on the server",
  internal: "The server failed",
  slow_client: "This browser could not keep up",
  session_expired: "A session had had its time",
  idle: "The server heard nothing",
  too_many_sessions: "All sessions of this key were in use",
  rate_limit_exceeded: "The server took no more sessions",
  overrun: "The connection is too slow",
  taken_over: "Another client had taken the session over",
};

/** @param {string} code */
function brokenText(code) {
  return BROKEN[code] ?? "The connection was lost";
}

/**
 * While there is no connection.
 * @param {string} code why @param {number} unsent @param {number} dropped seconds of sound
 */
export function waitingText(code, unsent, dropped) {
  const kept = `${Math.max(0, unsent - dropped).toFixed(0)} s of sound kept here`;
  const lost = dropped < 0.5 ? "" : `, ${dropped.toFixed(0)} s before are lost`;
  return `${brokenText(code)} · ${kept}${lost}`;
}

/** The mark where sound is missing. @param {import("./link.js").Gap} gap */
export function gapText({ lost, code }) {
  return `${brokenText(code)} for a while. ${lost.toFixed(0)} s of sound are missing here.`;
}
