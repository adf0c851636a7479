from itertools import pairwise

import numpy as np
import pytest
from support.clips import clip, names


@pytest.mark.parametrize("name", names())
def test_a_clip_is_what_its_entry_says(name):
    c = clip(name)
    assert c.pcm.shape == (c.frames, c.channels)
    assert not c.pcm[-c.rate :].any()
    assert c.samples.dtype == np.float32
    assert abs(len(c.samples) - c.duration * 16_000) <= 1
    assert " ".join(s.text for s in c.sentences) == c.text


@pytest.mark.parametrize("name", [n for n in names() if clip(n).sentences])
def test_speech_is_where_the_entry_says(name):
    c = clip(name)
    inside = np.zeros(len(c.samples), bool)
    for sentence in c.sentences:
        inside[int(sentence.start * 16_000) : int(sentence.end * 16_000)] = True
    level = np.abs(c.samples)
    assert level[inside].mean() > 5 * level[~inside].mean()


@pytest.mark.parametrize("name", [n for n in names() if clip(n).words])
def test_words_are_in_order_and_spell_the_text(name):
    words = clip(name).words
    assert all(w.start < w.end for w in words)
    assert all(a.end <= b.start for a, b in pairwise(words))
    assert [w.text for w in words] == [w.strip(".,?") for w in clip(name).text.split()]
