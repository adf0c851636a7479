/**
 * The server's key, where it wants one: asked for once and kept for as long as this tab is open. A
 * WebSocket is let in by a short-lived one instead, since its address and protocols may be logged.
 */
import { byId } from "./dom.js";

const NAME = "voxlive-key";
const SECRETS = new URL("../v1/realtime/client_secrets", import.meta.url);
const LASTS_S = 30;

let kept = stored();
const given = handed();
if (given !== "") keep(given);

/** Whether the reader has given one. */
export function hasKey() {
  return kept !== "";
}

/** What a request needs. @returns {Record<string, string>} */
export function keyHeaders() {
  return kept === "" ? {} : { authorization: `Bearer ${kept}` };
}

/** It was not accepted, or is no longer. */
export function forgetKey() {
  keep("");
}

/**
 * The sub-protocols that let a WebSocket in.
 * @returns {Promise<string[]>}
 * @throws {import("./link.js").Failure}
 */
export async function pass() {
  const headers = { "content-type": "application/json", ...keyHeaders() };
  const body = JSON.stringify({ expires_after: { seconds: LASTS_S } });
  const failed = (/** @type {string} */ code, message = "") => ({ code, message });
  let answer;
  let said;
  try {
    answer = await fetch(SECRETS, { method: "POST", headers, body });
    said = await answer.json();
  } catch {
    throw failed(answer ? "bad_server" : "unreachable");
  }
  if (!answer.ok) throw failed(said.error?.code ?? "bad_server", said.error?.message);
  return ["token", said.value];
}

/**
 * Asks for the key, unless it is being asked for. Resolves to whether one was given.
 * @param {string} why
 * @returns {Promise<boolean>}
 */
export async function askForKey(why) {
  const dialog = byId("ask-key");
  if (dialog.open) return false;
  byId("ask-key-why").textContent = why;
  byId("key").value = "";
  dialog.returnValue = "";
  byId("ask-key-later").onclick = () => dialog.close("");
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  const given = dialog.returnValue === "use" ? byId("key").value.trim() : "";
  byId("key").value = "";
  if (given !== "") keep(given);
  return given !== "";
}

/** @param {string} key */
function keep(key) {
  kept = key;
  try {
    if (key === "") sessionStorage.removeItem(NAME);
    else sessionStorage.setItem(NAME, key);
  } catch {
    // Storage is switched off for this page: the key lasts until it is reloaded.
  }
}

/** One that the address has, from a code that was scanned: it stays in neither address nor history. */
function handed() {
  const key = new URLSearchParams(location.hash.slice(1)).get("key") ?? "";
  if (key !== "") history.replaceState(null, "", location.pathname + location.search);
  return key;
}

function stored() {
  try {
    return sessionStorage.getItem(NAME) ?? "";
  } catch {
    return "";
  }
}
