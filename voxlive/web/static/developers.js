/** What a program would say to this very server: whole programs to copy, by language or client. */
import { copyBy } from "./clipboard.js";
import { byId, make } from "./dom.js";
import { hasKey } from "./key.js";
import { say } from "./words.js";

const KEY = "YOUR_KEY";

/**
 * @typedef {object} Place
 * @property {string} http address of the server
 * @property {string} ws the same for WebSockets
 * @property {string} model
 * @property {string} key "" where none is needed
 * @property {string} session id of the one on the page, "" for none that the server has
 * @property {boolean} stored whether the server keeps it
 */

/** @type {Record<string, (place: Place) => string>} */
export const SNIPPETS = {
  Python: ({ ws, model, key }) => `# pip install voxlive
import asyncio
import wave

from voxlive.client import LiveClient


async def main():
    with wave.open("speech.wav") as file:
        rate, audio = file.getframerate(), file.readframes(file.getnframes())
    async with LiveClient(
        "${ws}/v1/live", rate=rate, model="${model}"${key && `, key="${key}"`}
    ) as client:

        async def speak():
            await client.send(audio)
            await client.stop()

        speaking = asyncio.create_task(speak())
        async for message in client:
            if message["type"] == "segment":
                print(message["text"])
        await speaking


asyncio.run(main())
`,
  JavaScript: ({ ws, model, key }) => `const socket = new WebSocket("${ws}/v1/live"${key && `, ["token", "${key}"]`});
socket.onopen = async () => {
  const start = { format: "s16le", rate: 16000, channels: 1, model: "${model}" };
  socket.send(JSON.stringify({ type: "start", ...start }));
  const wav = await (await fetch("speech.wav")).arrayBuffer(); // 16 kHz, mono
  socket.send(wav.slice(44));
  socket.send(JSON.stringify({ type: "stop" }));
};
socket.onmessage = ({ data }) => {
  const message = JSON.parse(data);
  if (message.type === "segment") console.log(message.text);
};
`,
  curl: ({ http, model, key, session, stored }) => {
    const header = key && ` -H "authorization: Bearer ${key}"`;
    const file = `curl ${http}/v1/audio/transcriptions${header} \\
  -F file=@speech.wav -F model=${model}
`;
    const along = `
# What is said on the page, while it is said
curl -N ${http}/captions/${session}${header}
`;
    const text = `
# The session on the page, as text
curl ${http}/v1/sessions/${session}.txt${header}
`;
    return file + (session && along) + (session && stored ? text : "");
  },
  Deepgram: ({ http, ws, model, key }) => `# pip install deepgram-sdk
from deepgram import DeepgramClient, DeepgramClientEnvironment

here = DeepgramClientEnvironment(
    base="${http}", agent_rest="${http}", production="${ws}", agent="${ws}"
)
client = DeepgramClient(api_key="${key || "any"}", environment=here)
with open("speech.wav", "rb") as file:
    answer = client.listen.v1.media.transcribe_file(request=file.read(), model="${model}")
print(answer.results.channels[0].alternatives[0].transcript)
`,
  OpenAI: ({ http, model, key }) => `# pip install openai
from openai import OpenAI

client = OpenAI(base_url="${http}/v1", api_key="${key || "any"}")
with open("speech.wav", "rb") as file:
    answer = client.audio.transcriptions.create(file=file, model="${model}")
print(answer.text)
`,
};

export class Developers {
  #place;
  #shown = "Python";

  /** @param {() => Pick<Place, "model" | "session" | "stored">} current */
  constructor(current) {
    this.#place = () => ({ ...current(), ...address(), key: hasKey() ? KEY : "" });
    const choices = Object.keys(SNIPPETS).map((name) => {
      const button = make("button", "secondary small", name);
      button.setAttribute("type", "button");
      button.addEventListener("click", () => this.#show(name));
      return button;
    });
    byId("developers-choices").append(...choices);
    byId("open-developers").addEventListener("click", () => {
      byId("about").close();
      this.#show(this.#shown);
      byId("developers").showModal();
    });
    const button = byId("developers-copy");
    button.addEventListener("click", () => copyBy(button, byId("developers-code").textContent));
  }

  /** @param {string} name */
  #show(name) {
    this.#shown = name;
    const place = this.#place();
    byId("developers-code").textContent = SNIPPETS[name](place);
    byId("developers-key").hidden = place.key === "";
    for (const button of byId("developers-choices").children) {
      button.setAttribute("aria-pressed", String(button.textContent === name));
    }
  }
}

/** This page's server, whatever its root path. */
function address() {
  const http = new URL("..", import.meta.url).href.replace(/\/$/, "");
  return { http, ws: http.replace("http", "ws") };
}
