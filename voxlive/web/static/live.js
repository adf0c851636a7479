/** Where this page's server has its live sessions, and what lets the page in. */
import { hasKey, pass } from "./key.js";

/**
 * Where the native protocol is, beside this page, whatever the root path.
 * @param {string} captions the session's name for those who read along
 */
export function liveUrl(captions = "") {
  const url = new URL("../v1/live", import.meta.url);
  if (captions !== "") url.searchParams.set("captions", captions);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}

/** The sub-protocols of the next connection: a short-lived key, where a key was given. */
export async function livePass() {
  return hasKey() ? pass() : [];
}
