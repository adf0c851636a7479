"""Where the page keeps transcripts: one interface to this browser and to the server's history."""

import pytest
from support.browser import without_the_page
from support.server import serving
from support.storing import spoken

from voxlive.store.backends import SqliteStore

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

SPOKEN = {
    "first": ["We bought apples,", "and a bottle of milk."],
    "second": ["Le café était fermé."],
    "third": ["Nothing else."],
}

# The modules; a transcript of segments of words; a journal that keeps it in this browser.
SETUP = """async () => {
  const names = ["store", "journal", "transcript", "tabs"];
  const found = await Promise.all(names.map((name) => import(`/static/${name}.js`)));
  window.modules = Object.assign({}, ...found);
  window.browserStore = await modules.BrowserStore.open();
  let now = 0;
  window.said = (transcript, key, text) => {
    for (const [word] of text.matchAll(/\\s*\\S+/g)) {
      transcript.words(key, [{ text: word, start: now, end: now + 0.1, p: null }]);
      now += 0.1;
    }
  };
  window.keep = (transcript, more = {}) => {
    const present = () => ({ transcript, seconds: now, language: "en", unfinished: null, ...more });
    return new modules.Journal(browserStore, present, (error) => (window.failed = error.message));
  };
}"""


async def in_browser(page):
    """Keep the transcripts in the browser."""
    await page.evaluate(SETUP)
    await page.evaluate(
        """async (all) => {
          window.place = browserStore;
          for (const segments of all) {
            const transcript = new modules.Transcript();
            const journal = keep(transcript);
            for (const [n, text] of segments.entries()) {
              said(transcript, `s/${n}`, n ? ` ${text}` : text);
              journal.touch();
            }
            await journal.flush();
            await new Promise((done) => setTimeout(done, 5));
          }
        }""",
        list(SPOKEN.values()),
    )


async def at_server(page):
    await page.evaluate(SETUP)
    await page.evaluate("() => { window.place = new modules.ServerStore(); }")


async def check_place(page):
    """What both places have to do."""
    listed = await page.evaluate("place.list('')")
    assert listed["next"] is None
    assert [one["preview"] for one in listed["sessions"]] == [
        " ".join(segments) for segments in reversed(SPOKEN.values())
    ]
    for one in listed["sessions"]:
        assert (one["title"], one["running"], one["unfinished"]) == ("", False, None)
        assert one["seconds"] > 0
    ids = [one["id"] for one in listed["sessions"]]
    for query, found in (
        ("BOTTLE apples", [ids[2]]),
        ("cafe", [ids[1]]),
        ("bread", []),
        ("  ", ids),
    ):
        hits = (await page.evaluate("(query) => place.list(query)", query))["sessions"]
        # The server wants the words in one segment or in the title.
        wanted = [] if query == "BOTTLE apples" and hits == [] else found
        assert [one["id"] for one in hits] == wanted, query
    [hit] = (await page.evaluate("place.list('milk')"))["sessions"]
    assert "bottle of milk" in hit["found"]

    saved = await page.evaluate("(id) => place.read(id)", ids[2])
    texts = ["".join(word["text"] for word in entry["words"]) for entry in saved["entries"]]
    assert texts == ["We bought apples,", " and a bottle of milk."]
    starts = [word["start"] for entry in saved["entries"] for word in entry["words"]]
    assert starts == sorted(starts)
    again = await page.evaluate(
        "async (id) => { const { entries, about } = await place.read(id);"
        " return modules.Transcript.of(entries, about).text; }",
        ids[2],
    )
    assert again == "We bought apples, and a bottle of milk."

    await page.evaluate("(id) => place.rename(id, 'Shopping')", ids[2])
    assert (await page.evaluate("(id) => place.read(id)", ids[2]))["info"]["title"] == "Shopping"
    [hit] = (await page.evaluate("place.list('shopping')"))["sessions"]
    assert hit["id"] == ids[2]
    await page.evaluate("(id) => place.remove(id)", ids[1])
    left = (await page.evaluate("place.list('')"))["sessions"]
    assert [one["id"] for one in left if one["id"] != ids[2]] == [ids[0]]
    assert {one["id"] for one in left} == {ids[0], ids[2]}


async def test_this_browser_keeps_sessions(server):
    async with without_the_page(server.url) as watched:
        await in_browser(watched.page)
        await check_place(watched.page)


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    """A server with a history of three sessions."""
    folder = tmp_path_factory.mktemp("store")
    store = SqliteStore(folder)
    for minute, (ident, segments) in enumerate(SPOKEN.items()):
        store.apply(spoken(ident, segments, owner="", minute=minute))
    store.close()
    with serving("--store", str(folder), "--keep", "36500d") as running:
        yield running


async def test_the_server_keeps_sessions(history):
    async with without_the_page(history.url) as watched:
        await at_server(watched.page)
        await check_place(watched.page)


async def test_both_places_are_one_list(history):
    async with without_the_page(history.url) as watched:
        page = watched.page
        await in_browser(page)
        listed = await page.evaluate(
            """async () => {
              window.store = new modules.Store(browserStore);
              const alone = await store.list("");
              store.served = true;
              const both = await store.list("");
              const [newest] = both.sessions;
              const theirs = both.sessions.find(({ place }) => place === "server");
              // A session of the server that is still written here is there once.
              const transcript = new modules.Transcript();
              const journal = keep(transcript);
              journal.serves(theirs.id);
              await journal.flush();
              const joined = await store.list("");
              await store.remove(journal.id);
              const after = await store.list("");
              return {
                alone: alone.sessions.map(({ place }) => place),
                both: both.sessions.map(({ place }) => place),
                newest: newest.place,
                joined: joined.sessions.map(({ id }) => id === journal.id || id === theirs.id),
                after: after.sessions.some(({ id }) => id === journal.id || id === theirs.id),
              };
            }"""
        )
        assert listed["alone"] == ["browser"] * 3
        assert sorted(listed["both"])[:3] == ["browser"] * 3
        assert "server" in listed["both"]
        assert listed["newest"] == "browser"
        assert listed["joined"].count(True) == 1
        assert listed["after"] is False


async def test_the_journal_writes_what_is_new_and_the_sound_that_may_be_needed(server):
    async with without_the_page(server.url) as watched:
        page = watched.page
        await page.evaluate(SETUP)
        seen = await page.evaluate(
            """async () => {
              const transcript = new modules.Transcript();
              const link = { name: "s", token: "t", have: 0, kept: 0, captured: 0 };
              const sound = Int16Array.from({ length: 200000 }, (_, at) => at % 30000);
              let down = true;
              const soundFrom = (from) => {
                const at = Math.max(from, link.kept);
                return { at, pcm: sound.slice(at, link.captured) };
              };
              let written = 0;
              const write = browserStore.write.bind(browserStore);
              browserStore.write = (info, entries, sound) => {
                written += entries.length;
                return write(info, entries, sound);
              };
              const present = () => ({ transcript, seconds: 1, language: "",
                unfinished: { link: { ...link }, origin: 0, settings: {} },
                soundFrom: down ? soundFrom : undefined });
              const journal = new modules.Journal(browserStore, present, () => {});
              for (let n = 0; n < 300; n++) {
                said(transcript, `s/${Math.floor(n / 10)}`, ` word${n}`);
                if (n === 250) transcript.mark(10000, "ahead", true);
                link.have = n;
                link.captured = n * 400;
                link.kept = Math.max(0, link.captured - 50000);
                journal.touch();
                await journal.flush();
              }
              const { info, entries, sound: kept } = await browserStore.read(journal.id);
              down = false;
              link.captured = 150000;
              journal.touch();
              await journal.flush();
              const apart = await browserStore.read(journal.id);
              // As an older page has it: each entry is a row, and it goes on in their midst.
              const many = Array.from({ length: 150 },
                (_, at) => ({ kind: "mark", at, text: `${at}` }));
              const open = indexedDB.open("voxlive");
              await new Promise((done) => { open.onsuccess = done; });
              const change = open.result.transaction("entries", "readwrite");
              const rows = change.objectStore("entries");
              for (const [at, entry] of many.slice(0, 100).entries()) {
                rows.put({ session: "old", at, entry });
              }
              await new Promise((done) => { change.oncomplete = done; });
              open.result.close();
              const added = many.map((entry, at) => [at, entry]).slice(100);
              await browserStore.write({ ...info, id: "old", about: {} }, added.slice(0, 20), []);
              await browserStore.write({ ...info, id: "old", about: {} }, added.slice(20), []);
              const old = (await browserStore.read("old")).entries;
              return {
                old: JSON.stringify(old) === JSON.stringify(many),
                written, have: info.unfinished.link.have, entries,
                kept: kept.reduce((sum, pcm) => sum + pcm.length, 0),
                first: kept[0][0], last: kept.at(-1).at(-1),
                captured: info.unfinished.link.captured,
                apart: apart.sound.length,
                same: modules.Transcript.of(entries, {}).text === transcript.text,
              };
            }"""
        )
    assert seen["same"]
    assert seen["old"]
    assert seen["have"] == 299
    assert seen["entries"][-1] == {"kind": "mark", "at": 10000, "text": "ahead", "own": True}
    assert len(seen["entries"]) == 31
    # Each word is written with its run: no more than two rows for a word and its mark.
    assert 300 <= seen["written"] <= 600
    assert 50_000 <= seen["kept"] <= 50_000 + 2 * 16_000
    assert seen["first"] == (seen["captured"] - seen["kept"]) % 30_000
    assert seen["last"] == (seen["captured"] - 1) % 30_000
    # What was captured while the line held is not there: the sound before it fits nothing.
    assert seen["apart"] == 0


async def test_a_browser_that_takes_no_more_says_so_once(server):
    async with without_the_page(server.url) as watched:
        page = watched.page
        await page.evaluate(SETUP)
        await page.evaluate(
            """async () => {
              const transcript = new modules.Transcript();
              browserStore.write = async () => { throw new modules.StoreError("QuotaExceeded"); };
              const journal = keep(transcript);
              for (let n = 0; n < 3; n++) { journal.touch(); await journal.flush(); }
              window.saved = journal.saved;
            }"""
        )
        assert await page.evaluate("failed") == "QuotaExceeded"
        assert await page.evaluate("saved") is False


async def test_one_tab_has_a_session_and_another_one_may_ask_for_it(server):
    async with without_the_page(server.url) as watched:
        page = watched.page
        other = await page.context.new_page()
        await other.goto(page.url)
        for one in (page, other):
            await one.evaluate(SETUP)
            await one.evaluate(
                """() => {
                  window.left = 0;
                  window.lock = new modules.SessionLock(async () => { window.left += 1; });
                }"""
            )
        assert await page.evaluate("lock.take('a')")
        assert await other.evaluate(
            "async () => [...await modules.SessionLock.held()].includes('a')"
        )
        assert await other.evaluate("lock.take('a')")
        assert await page.evaluate("left") == 1
        await other.close()  # as in a crash
        await page.wait_for_function(
            "async () => !(await modules.SessionLock.held()).has('a')", polling=50
        )
        assert await page.evaluate("lock.take('a')")
