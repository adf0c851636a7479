"""Who speaks, as the reading page and the overlay show it."""

from __future__ import annotations

from support.browser import without_the_page

DASH = "\u2013"

_READ = """async () => {
  const { CaptionText } = await import('/static/captions.js');
  const root = document.createElement('div');
  const text = new CaptionText(root);
  const paragraphs = () => [...root.querySelectorAll('p')].map((one) => one.textContent);
  const said = [];
  const word = (start, end) => [{ start, end }];
  text.append(0, ' Hello there.', '', word(0, 2));
  said.push(paragraphs());
  text.label(0, [{ speaker: 0, text: ' Hello there.' }]);
  text.append(0, ' Hi you.', '', word(2, 3));
  text.draft(' And', '');
  said.push(paragraphs());
  text.label(0, [{ speaker: 0, text: ' Hello there.' }, { speaker: 1, text: ' Hi you.' }]);
  text.put({ id: 0, text: ' Hello there. Hi you.', start: 0, end: 3, parts: [
    { speaker: 0, text: ' Hello there.' }, { speaker: 1, text: ' Hi you.' }] });
  text.append(1, ' Bye.', '', word(4, 5));
  text.label(1, [{ speaker: 0, text: ' Bye.' }]);
  said.push(paragraphs());
  text.names.set('', 1, 'Anna');
  text.rename();
  text.draft(' And', '');
  // It was the other one, all the time, and what follows moves with it.
  text.label(0, [{ speaker: 1, text: ' Hello there. Hi you.' }]);
  said.push(paragraphs());
  text.put({ id: 0, text: ' Hello where. Hi you.' });
  text.label(0, [{ speaker: 1, text: ' Hello where. Hi you.' }]);
  said.push(paragraphs());
  return said;
}"""

_OVERLAY = """async (names) => {
  const { OverlayText } = await import('/static/overlaylook.js');
  const root = document.createElement('p');
  const text = new OverlayText(root, new URLSearchParams(`fade=0&names=${names}`));
  const said = [];
  const take = (kind, data) => {
    text.take(kind, data);
    said.push(root.textContent);
  };
  const both = [{ speaker: 0, text: ' Hello there.' }, { speaker: 1, text: ' Hi you.' }];
  text.take('words', { segment: 0, text: ' Hello there.' });
  text.take('speakers', { segment: 0, parts: both.slice(0, 1) });
  take('words', { segment: 0, text: ' Hi you.' });
  take('speakers', { segment: 0, parts: both });
  take('named', { speaker: 1, name: 'Anna' });
  take('words', { segment: 1, text: ' Bye.' });
  const segments = [{ id: 0, text: ' Hello there. Hi you.', parts: both }];
  take('snapshot', { segments, open: [], draft: ' and', speakers: [{ speaker: 0, name: 'Tom' }] });
  return said;
}"""


async def test_readers_see_who_speaks(server):
    async with without_the_page(server.url) as watched:
        said = await watched.page.evaluate(_READ)
        assert said == [
            [" Hello there."],
            ["Speaker 1 Hello there. Hi you. And"],
            ["Speaker 1 Hello there.", "Speaker 2 Hi you.", "Speaker 1 Bye."],
            ["Anna Hello there. Hi you.", "Speaker 1 Bye. And"],
            ["Anna Hello where. Hi you.", "Speaker 1 Bye. And"],
        ]
        assert await watched.page.evaluate(_OVERLAY, "0") == [
            "Hello there. Hi you.",
            f"Hello there. {DASH} Hi you.",
            f"Hello there. {DASH} Hi you.",
            f"Hello there. {DASH} Hi you. Bye.",
            f"Hello there. {DASH} Hi you. and",
        ]
        assert await watched.page.evaluate(_OVERLAY, "1") == [
            "Speaker 1: Hello there. Hi you.",
            f"Speaker 1: Hello there. {DASH} Speaker 2: Hi you.",
            f"Speaker 1: Hello there. {DASH} Anna: Hi you.",
            f"Speaker 1: Hello there. {DASH} Anna: Hi you. Bye.",
            f"Tom: Hello there. {DASH} Speaker 2: Hi you. and",
        ]
