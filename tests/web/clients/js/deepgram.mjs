// Deepgram's: node deepgram.mjs URL KEY PCM16K FLAC. Prints what it heard, as JSON.
import { createReadStream, readFileSync } from "node:fs";

import { DeepgramClient } from "@deepgram/sdk";

const [url, apiKey, pcmPath, flacPath] = process.argv.slice(2);
const ws = url.replace("http", "ws");
const environment = { base: url, production: ws, agent: ws, agentRest: url };
const client = new DeepgramClient({ apiKey, environment });
const pcm = readFileSync(pcmPath);

const connection = await client.listen.v1.connect({
  model: "nova-3",
  encoding: "linear16",
  sample_rate: 16000,
  interim_results: "true",
  vad_events: "true",
  utterance_end_ms: 1000,
  reconnectAttempts: 0,
});
const messages = [];
const closed = new Promise((resolve, reject) => {
  connection.on("message", (message) => {
    messages.push(message);
    if (message.from_finalize) connection.sendCloseStream({ type: "CloseStream" });
  });
  connection.on("error", reject);
  connection.on("close", ({ code }) => resolve(code));
});
connection.connect();
await connection.waitForOpen();
connection.sendKeepAlive({ type: "KeepAlive" });
for (let at = 0; at < pcm.length; at += 6400) connection.sendMedia(pcm.subarray(at, at + 6400));
connection.sendFinalize({ type: "Finalize" });
const code = await closed;

const file = await client.listen.v1.media.transcribeFile(createReadStream(flacPath), {
  model: "nova-3",
  utterances: true,
});
const wrong = await new DeepgramClient({ apiKey: "wrong", environment }).listen.v1.media
  .transcribeFile(createReadStream(flacPath), { model: "nova-3" }, { maxRetries: 0 })
  .catch(({ statusCode }) => statusCode);

console.log(JSON.stringify({ messages, code, file, wrong }));
