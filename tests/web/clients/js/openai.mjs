// openai: node openai.mjs URL KEY PCM24K FLAC. Prints what each way of using it heard, as JSON.
import { createReadStream, readFileSync } from "node:fs";

import OpenAI from "openai";
import { OpenAIRealtimeWebSocket } from "openai/realtime/websocket";
import { OpenAIRealtimeWS } from "openai/realtime/ws";
import { WebSocket } from "ws";

// What a browser has, and Node 20 not yet.
globalThis.WebSocket ??= WebSocket;

const [url, apiKey, pcmPath, flacPath] = process.argv.slice(2);
const client = new OpenAI({ apiKey, baseURL: `${url}/v1`, dangerouslyAllowBrowser: true });
const pcm = readFileSync(pcmPath);
const TRANSCRIPTION = "conversation.item.input_audio_transcription";

/** Everything up to the first completed item; `session` when the settings are in force. */
function listen(realtime, settings) {
  const events = [];
  return new Promise((resolve, reject) => {
    realtime.on("error", reject);
    realtime.on("event", (event) => {
      events.push(event.type);
      if (event.type === "session.created") {
        realtime.send({ type: "session.update", session: settings });
      } else if (event.type === "session.updated") {
        for (let at = 0; at < pcm.length; at += 9600) {
          const audio = pcm.subarray(at, at + 9600).toString("base64");
          realtime.send({ type: "input_audio_buffer.append", audio });
        }
        if (settings.audio.input.turn_detection === null) {
          realtime.send({ type: "input_audio_buffer.commit" });
        }
      } else if (event.type === `${TRANSCRIPTION}.completed`) {
        realtime.close();
        resolve({ text: event.transcript, events });
      }
    });
  });
}

const settings = (turn_detection) => ({
  type: "transcription",
  audio: {
    input: {
      format: { type: "audio/pcm", rate: 24000 },
      transcription: { model: "gpt-4o-transcribe", language: "en" },
      turn_detection,
    },
  },
});

const rest = await client.audio.transcriptions.create({
  file: createReadStream(flacPath),
  model: "whisper-1",
  response_format: "verbose_json",
  timestamp_granularities: ["word"],
});
const plain = new OpenAIRealtimeWS({ intent: "transcription" }, client);
const ws = await listen(plain, settings({ type: "server_vad" }));
const secret = await client.realtime.clientSecrets.create({ session: settings(null) });
const shortLived = new OpenAI({ apiKey: secret.value, baseURL: `${url}/v1` });
const browserLike = new OpenAIRealtimeWebSocket({ intent: "transcription" }, shortLived);
const browser = await listen(browserLike, settings(null));
const models = (await client.models.list()).data.map(({ id }) => id);
const wrong = await new OpenAI({ apiKey: "wrong", baseURL: `${url}/v1`, maxRetries: 0 }).models
  .list()
  .catch(({ status, code }) => ({ status, code }));

console.log(JSON.stringify({ rest, ws, browser, models, wrong, protocol: plain.url.protocol }));
