/**
 * The page where its server cannot be reached: it starts from what this browser keeps of it, says so,
 * and has the transcripts that are in this browser. Kept are the files of shell.json alone: no audio,
 * no answer of the API, no address with a query. A server that answers is always what is shown.
 */
const worker = /** @type {ServiceWorkerGlobalScope} */ (/** @type {unknown} */ (self));
const FOLDER = new URL("./", worker.location.href).href;
const PAGE = new URL("../", FOLDER).href;
const NAME = "voxlive-shell-";
const PATIENCE_MS = 5000; // with a server that does not answer

/** @type {Set<string>} pages that were started from what is kept: their files are too */
const cached = new Set();

worker.addEventListener("install", (event) => {
  event.waitUntil(update().then(() => worker.skipWaiting()));
});

worker.addEventListener("fetch", (event) => {
  const { request, clientId } = event;
  const [address] = request.url.split("#");
  if (request.mode === "navigate" && address === PAGE) event.respondWith(page(event));
  else if (cached.has(clientId) && request.url.startsWith(FOLDER)) event.respondWith(file(request));
});

/** A page asks whether it is a kept one. */
worker.addEventListener("message", ({ source }) => {
  if (source instanceof Client) source.postMessage({ kept: cached.has(source.id) });
});

/** @param {FetchEvent} event */
async function page(event) {
  const answer = fetch(event.request).catch(() => null);
  const patience = new Promise((resolve) => setTimeout(resolve, PATIENCE_MS, null));
  const response = /** @type {Response | null} */ (await Promise.race([answer, patience]));
  if (response !== null && response.status < 500) {
    event.waitUntil(update().catch(() => {}));
    return response;
  }
  const kept = await find(PAGE);
  if (kept) cached.add(event.resultingClientId);
  return kept ?? (await answer) ?? Response.error();
}

/** @param {Request} request */
async function file(request) {
  return (await find(request.url)) ?? fetch(request);
}

/** @param {string} address */
async function find(address) {
  const [name] = await names();
  return name === undefined ? undefined : (await caches.open(name)).match(address, { ignoreVary: true });
}

/** Keeps the server's page as a whole in place of another version. */
async function update() {
  const { version, files } = await shell();
  const name = NAME + version;
  const before = await names();
  if (!before.includes(name)) {
    const addresses = files.map((/** @type {string} */ one) => FOLDER + one);
    const cache = await caches.open(name);
    try {
      await cache.addAll([PAGE, ...addresses].map((one) => new Request(one, { cache: "no-cache" })));
      if ((await shell()).version !== version) throw new Error("the server was replaced meanwhile");
    } catch (error) {
      await caches.delete(name);
      throw error;
    }
  }
  for (const other of before) if (other !== name) await caches.delete(other);
}

async function shell() {
  const response = await fetch(`${FOLDER}shell.json`, { cache: "no-cache" });
  return response.json();
}

async function names() {
  return (await caches.keys()).filter((name) => name.startsWith(NAME));
}
