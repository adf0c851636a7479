// Mistral's: node mistral.mjs URL KEY PCM16K FLAC. Prints what it heard, as JSON.
import { readFileSync } from "node:fs";

import { Mistral } from "@mistralai/mistralai";
import { RealtimeTranscription } from "@mistralai/mistralai/extra/realtime";

const [url, apiKey, pcmPath, flacPath] = process.argv.slice(2);
const options = { apiKey, serverURL: url };
const pcm = readFileSync(pcmPath);
const MODEL = "voxtral-mini-transcribe-realtime-2602";
const audioFormat = { encoding: "pcm_s16le", sampleRate: 16000 };
const realtime = new RealtimeTranscription(options);

async function* pieces() {
  for (let at = 0; at < pcm.length; at += 6400) yield pcm.subarray(at, at + 6400);
}

const stream = [];
for await (const event of realtime.transcribeStream(pieces(), MODEL, { audioFormat })) {
  stream.push(event);
}

// A flush brings a done, and the session goes on.
const connection = await realtime.connect(MODEL, { audioFormat });
const dones = [];
for await (const piece of pieces()) await connection.sendAudio(piece);
await connection.flushAudio();
for await (const event of connection) {
  if (event.type !== "transcription.done") continue;
  dones.push(event.text);
  if (dones.length === 2) break;
  for await (const piece of pieces()) await connection.sendAudio(piece);
  await connection.endAudio();
}
await connection.close();

const file = await new Mistral(options).audio.transcriptions.complete({
  model: "voxtral-mini-latest",
  file: { fileName: "speech.flac", content: readFileSync(flacPath) },
});
const wrong = await new RealtimeTranscription({ apiKey: "wrong", serverURL: url })
  .connect(MODEL, { audioFormat })
  .then(
    () => "let in",
    ({ message }) => message,
  );

console.log(JSON.stringify({ stream, dones, requestId: connection.requestId, file, wrong }));
