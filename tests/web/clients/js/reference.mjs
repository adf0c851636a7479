// The reference client, from a folder with its files: sends a file of s16le and prints what came.
import { readFileSync } from "node:fs";
import { setTimeout as pause } from "node:timers/promises";

const [folder, url, file, options] = process.argv.slice(2);
const { Link } = await import(`file://${folder}/link.js`);
const bytes = readFileSync(file);
const pcm = new Int16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2);
const seen = { events: [], resumed: 0, restarted: [], waiting: [] };
const ended = new Promise((resolve) => {
  const listener = {
    event: (message) => seen.events.push(message),
    resumed: () => seen.resumed++,
    restarted: (gap) => seen.restarted.push(gap),
    waiting: ({ code }) => seen.waiting.push(code),
    ended: (failure, missing) => resolve({ failure, missing }),
  };
  void speak(new Link(url, {}, listener, JSON.parse(options)));
});

async function speak(link) {
  for (let at = 0; at < pcm.length; at += 640) {
    link.push(pcm.subarray(at, at + 640));
    await pause(4);
  }
  link.stop();
}

const end = await ended;
console.log(JSON.stringify({ ...seen, ...end }));
