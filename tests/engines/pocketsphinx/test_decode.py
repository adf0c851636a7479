"""The recogniser alone, on real speech."""

import numpy as np
import pytest
from support.clips import clip

from voxlive.engines.pocketsphinx.decode import FRAME, Heard, Pcm, Recognizer


def pcm_of(name: str) -> Pcm:
    return np.rint(clip(name).samples * 32768).clip(-32768, 32767).astype(np.int16)


def test_words_come_with_their_true_times_and_posteriors(recognizer):
    heard, mean = recognizer.words(pcm_of("doctor"))
    spoken = clip("doctor").words
    assert [word.text for word in heard] == [word.text.lower() for word in spoken]
    for word, truth in zip(heard, spoken, strict=True):
        assert abs(word.start / 16_000 - truth.start) < 0.15
        assert abs(word.end / 16_000 - truth.end) < 0.15
        assert word.start % FRAME == word.end % FRAME == 0
        assert 0 < word.probability <= 1
    assert len(mean.split(",")) == 13


def test_posteriors_tell_right_words_from_wrong_ones(recognizer):
    heard, _ = recognizer.words(pcm_of("noisy"))
    spoken = {word.text.lower() for word in clip("noisy").words}
    right = [word.probability for word in heard if word.text in spoken]
    wrong = [word.probability for word in heard if word.text not in spoken]
    assert wrong, "this clip is meant to be misheard"
    assert np.mean(wrong) < np.mean(right) - 0.2


def test_digital_silence_has_no_mean_and_no_words(recognizer):
    silence = np.zeros(16_000, np.int16)
    assert recognizer.words(silence) == ([], None)
    assert recognizer.mean(silence) is None


@pytest.mark.parametrize("samples", [1, 159, 411, 1600])
def test_a_scrap_of_sound_has_no_words(recognizer, samples):
    noise = np.random.default_rng(0).normal(0, 1000, samples).astype(np.int16)
    assert recognizer.words(noise)[0] == []


def test_words_depend_on_nothing_heard_before(recognizer):
    def first_sentence(recognizer: Recognizer) -> tuple[list[Heard], str | None]:
        return recognizer.words(pcm_of("pauses")[:32_000])

    fresh = first_sentence(Recognizer())
    assert fresh[0]
    recognizer.words(pcm_of("noise"))
    recognizer.words(np.zeros(16_000, np.int16))
    recognizer.start_draft("40,3,-1")
    recognizer.draft(pcm_of("train")[:16_000])
    assert recognizer.drafting
    assert first_sentence(recognizer) == fresh
    assert not recognizer.drafting
    assert first_sentence(recognizer) == fresh


def test_a_draft_follows_the_speech(recognizer):
    pcm = pcm_of("doctor")
    recognizer.start_draft(recognizer.mean(pcm))
    texts = [recognizer.draft(pcm[at : at + 8000]) for at in range(0, len(pcm), 8000)]
    recognizer.drop_draft()
    assert texts[3].startswith("the doctor will call")
    assert texts[-1] == "the doctor will call you back tomorrow afternoon about the results"
    recognizer.drop_draft()
