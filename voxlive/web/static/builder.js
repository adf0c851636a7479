/**
 * The overlay's builder: its choices are the parameters of the overlay's address. Whose captions they
 * are stands in the fragment of this page's own: `name`, and the `token` and `until` of a link.
 */
import { copyBy } from "./clipboard.js";
import { byId } from "./dom.js";
import { enable } from "./language.js";
import { dressOverlay, OverlayText } from "./overlaylook.js";
import "./theme.js"; // which holds the page, before this
import { dateTime, onLanguage, say } from "./words.js";

const SAMPLE_MS = 380; // for a word
const REST_MS = 2500; // behind the last
/** What the overlay has by itself. @type {Record<string, string>} */
const DEFAULTS = {
  size: "48",
  lines: "2",
  position: "bottom",
  align: "center",
  width: "100",
  color: "ffffff",
  background: "",
  weight: "600",
  fade: "10",
  lang: "",
  drafts: "1",
  names: "0",
  case: "",
};
/** What the builder begins with. @type {Record<string, string>} */
const FIRST = { size: "64", lines: "2", width: "80", background: "#000000" };
const ALPHA = { none: "", half: "b3", full: "ff" };

class Builder {
  #form = byId("wishes");
  #given = new URLSearchParams(location.hash.slice(1));
  #text = new OverlayText(byId("text"), new URLSearchParams("fade=0"));
  #at = 0;

  start() {
    for (const field of this.#form.elements) {
      const { name, type } = field;
      if (type === "checkbox") field.checked = name === "drafts";
      else if (type === "color") field.value = FIRST[name] ?? `#${DEFAULTS[name]}`;
      else if (name === "name") field.value = this.#given.get("name") ?? "";
      else if (name in DEFAULTS) field.value = FIRST[name] ?? DEFAULTS[name];
    }
    this.#form.elements.ground.value = "half";
    this.#form.addEventListener("input", () => this.#show());
    this.#form.addEventListener("submit", (/** @type {Event} */ event) => event.preventDefault());
    for (const button of document.querySelectorAll("[data-scene]")) {
      button.addEventListener("click", () => this.#setScene(/** @type {HTMLElement} */ (button)));
    }
    byId("copy").addEventListener("click", () => void this.#copy());
    byId("name-row").hidden = this.#given.has("token");
    onLanguage(() => this.#show());
    this.#show();
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
      this.#text.take("words", { segment: 0, text: say("builder.sample") });
    } else this.#speak();
  }

  /** The parameters that are not what the overlay has by itself. */
  get #wishes() {
    const data = new FormData(this.#form);
    const ground = /** @type {keyof ALPHA} */ (data.get("ground"));
    const wishes = new URLSearchParams();
    for (const [name, usual] of Object.entries(DEFAULTS)) {
      let value = String(data.get(name) ?? "").replace(/^#/, "");
      if (name === "background") value = ground === "none" ? "" : value + ALPHA[ground];
      else if (name === "drafts" || name === "names") value = data.has(name) ? "1" : "0";
      else if (name === "case") value = data.has("upper") ? "upper" : "";
      if (value !== usual) wishes.set(name, value);
    }
    if (ground !== "none") wishes.set("shadow", "0");
    return wishes;
  }

  #show() {
    const wishes = this.#wishes;
    dressOverlay(byId("overlay"), wishes);
    byId("size-text").textContent = `${this.#form.elements.size.value} px`;
    byId("width-text").textContent = `${this.#form.elements.width.value} %`;
    this.#form.elements.background.disabled = this.#form.elements.ground.value === "none";
    const name = this.#form.elements.name.value;
    const token = this.#given.get("token");
    const url = new URL(`../overlay/${encodeURIComponent(name || "captions")}`, import.meta.url);
    if (token) wishes.set("token", token);
    url.search = wishes.toString();
    byId("address").value = name || token ? url.href : "";
    byId("copy").disabled = !name && !token;
    const until = this.#given.get("until");
    byId("lasts").textContent = !token
      ? say("builder.named")
      : until
        ? say("builder.until", { when: dateTime(new Date(until)) })
        : "";
    wishes.set("fade", "0");
    this.#text.wish(wishes);
  }

  /** @param {HTMLElement} button */
  #setScene(button) {
    for (const other of document.querySelectorAll("button[data-scene]")) {
      other.setAttribute("aria-pressed", String(other === button));
    }
    byId("screen").dataset.scene = button.dataset.scene;
  }

  async #copy() {
    byId("address").select();
    await copyBy(byId("copy"), byId("address").value);
  }

  /** The next word of a sample, again and again. */
  #speak() {
    const words = say("builder.sample").split(/(?<=\s)/);
    if (this.#at >= words.length) {
      this.#at = 0;
      this.#text.take("snapshot", { segments: [], open: [], draft: "" });
    }
    this.#text.take("words", { segment: 0, text: words[this.#at] });
    this.#text.take("draft", { text: words.slice(this.#at + 1, this.#at + 3).join("") });
    this.#at += 1;
    setTimeout(() => this.#speak(), this.#at >= words.length ? REST_MS : SAMPLE_MS);
  }
}

new Builder().start();
enable();
