/** The voices that the server remembers, in the settings: to see, and to delete. */
import { byId, make } from "./dom.js";
import { confirmed } from "./panels.js";
import { ServerStore, StoreError } from "./serverstore.js";
import { dateTime, say } from "./words.js";

/** @typedef {import("./serverstore.js").Profile} Profile */

/** The list is read when the settings open. */
export function setUpProfiles() {
  const server = new ServerStore();
  const show = async () => {
    if (byId("profiles-row").hidden) return;
    try {
      byId("profiles").replaceChildren(...(await server.profiles()).map(row));
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
      byId("profiles").replaceChildren(make("li", "quiet", say("sessions.unreadable", { why: error.message })));
    }
  };
  /** @param {Profile} profile */
  const row = ({ id, name, made_at: made }) => {
    const who = make("span", "", name ?? say("profiles.sealed"));
    who.dir = "auto";
    const button = make("button", "secondary small", say("sessions.delete"));
    button.setAttribute("type", "button");
    button.setAttribute("aria-label", `${say("sessions.delete")}: ${who.textContent}`);
    button.addEventListener("click", async () => {
      const text = say("profiles.delete-text", { name: who.textContent ?? "" });
      if (!(await confirmed(say("profiles.delete-title"), text, say("sessions.delete")))) return;
      await server.forget(id).catch(() => {}); // the list says what is left
      await show();
    });
    return make("li", "", who, make("span", "quiet", dateTime(new Date(made))), button);
  };
  byId("open-settings").addEventListener("click", () => void show());
}
