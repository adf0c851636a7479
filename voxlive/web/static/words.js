/**
 * Words of the interface, by key, with places for values in {braces}. What fails and what to do about
 * it stands in messages.js.
 */
const WORDS = {
  "session.again": "Started again at {time}",
  "session.continued": "Continued at {time}: nothing was recorded for {gap} before",
  "session.marked": "Marked",
  "session.silent-file": "No speech was found in {name}.",
  "state.resumed": "connected again, nothing is lost",
  "state.recovered": "recognition was interrupted, nothing is lost",
  "state.caught-up": "caught up",
  "state.paused": "Paused",
  "state.quiet": "no answer for {seconds} s",
  "sessions.none": "Nothing is kept yet. What you say appears here as soon as it is said.",
  "sessions.none-found": "No transcript has these words.",
  "sessions.unreadable": "The transcripts cannot be read: {why}",
  "sessions.untitled": "Without words",
  "sessions.words": "{count} words",
  "sessions.word": "1 word",
  "sessions.browser": "in this browser",
  "sessions.server": "on the server",
  "sessions.here": "open in this tab",
  "sessions.elsewhere": "live in another tab",
  "sessions.unfinished": "interrupted",
  "sessions.running": "live now",
  "sessions.open": "Open",
  "sessions.continue": "Continue",
  "sessions.take": "Continue here",
  "sessions.rename": "Rename",
  "sessions.download": "Download…",
  "sessions.delete": "Delete",
  "sessions.title": "Title",
  "sessions.delete-title": "Delete this transcript?",
  "sessions.delete-text": "“{title}” cannot be brought back.",
  "continue.when": "Interrupted {when}, after {length}.",
  "continue.sound": "{seconds} s of sound wait to be recognised.",
  "moved.title": "This session goes on in another tab",
  "moved.step": "Everything up to that moment is here too. Continue in this tab from Transcripts.",
  "taken.title": "Another tab has this session",
  "taken.step": "Close that tab, then continue here.",
  "full.title": "This browser keeps the transcript no more",
  "full.step": "Download it before you leave this page. The browser says: {why}",
  "files.place": "file {at} of {of}",
  "speed.fast": "Fast, more mistakes",
  "speed.steady": "Steady, 2 s behind",
  "speed.careful": "Careful, at each pause",
  "speed.delay-fast": "Fast, {seconds} s behind",
  "speed.delay-steady": "Steady, {seconds} s behind",
  "speed.delay-careful": "Careful, {seconds} s behind",
  "title.listening": "● {clock} · voxlive",
  "title.paused": "Paused · {clock} · voxlive",
  "title.waiting": "⚠ Reconnecting · voxlive",
  "title.working": "… voxlive",
  "pause.on": "Resume",
  "pause.off": "Pause",
  "mute.on": "Unmute",
  "mute.off": "Mute",
  "remark.paused": "paused: nothing is recorded",
  "remark.muted": "muted: silence is sent",
  "remark.marked": "marked",
  "clear.title": "Clear this transcript?",
  "clear.unsaved": "It has not been downloaded or copied. ",
  "clear.lost": "It cannot be brought back.",
  "clear.yes": "Clear",
};

/** @param {keyof typeof WORDS} key @param {Record<string, string | number>} [values] */
export function say(key, values = {}) {
  return WORDS[key].replace(/\{([a-z]+)\}/g, (_, name) => String(values[name] ?? ""));
}

/** How long ago, in words. @param {number} ms */
export function ago(ms) {
  const format = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
  const minutes = Math.round(ms / 60_000);
  if (minutes < 1) return format.format(-Math.max(1, Math.round(ms / 1000)), "second");
  if (minutes < 60) return format.format(-minutes, "minute");
  if (minutes < 48 * 60) return format.format(-Math.round(minutes / 60), "hour");
  return format.format(-Math.round(minutes / 1440), "day");
}

/** A time span in words. @param {number} seconds */
export function span(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}
