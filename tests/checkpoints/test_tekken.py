import base64
from dataclasses import replace

import pytest
from support.tiny_checkpoint import NUM_SPECIAL, tekken_document, write_tekken

from training.golden.weights import TINY
from voxlive.checkpoints.tekken import check_tekken, read_tekken
from voxlive.errors import DamagedFile, WrongTokenizer


def test_bytes_and_ids_are_those_of_mistral_common(tmp_path):
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer  # takes a second

    path = write_tekken(tmp_path)
    ours, theirs = read_tekken(path), Tekkenizer.from_file(path)
    assert ours.vocab_size == theirs.n_words == TINY.decoder.vocab_size
    assert ours.num_special == theirs.num_special_tokens == NUM_SPECIAL
    for rank, token in enumerate(ours.vocab):
        assert token == theirs.id_to_byte_piece(NUM_SPECIAL + rank)
    assert (ours.bos, ours.eos) == (theirs.bos_id, theirs.eos_id)
    for name, token in (
        ("[STREAMING_PAD]", ours.streaming_pad),
        ("[STREAMING_WORD]", ours.streaming_word),
    ):
        assert token == theirs.get_special_token(name)
    assert (ours.streaming_pad, ours.streaming_word) == (32, 33)
    assert ours.audio.delay_ms == 480
    assert ours.audio.left_pad_tokens == 32
    check_tekken(ours, TINY)


@pytest.mark.parametrize("name", ["<s>", "</s>", "[STREAMING_PAD]", "[STREAMING_WORD]"])
def test_a_tokenizer_without_a_needed_token_is_refused(tmp_path, name):
    special = tekken_document()["special_tokens"]
    kept = [entry for entry in special if entry["token_str"] != name]
    with pytest.raises(WrongTokenizer, match=f"no {name}".replace("[", r"\[")):
        read_tekken(write_tekken(tmp_path, special_tokens=kept))


def _vocab(position, entry):
    vocab = list(tekken_document()["vocab"])
    vocab[position] = entry
    return {"vocab": vocab}


def _config(**changes):
    return {"config": tekken_document()["config"] | changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab": None}, "vocab is missing"),
        ({"special_tokens": None}, "special_tokens is missing"),
        ({"config": None}, "config is missing"),
        (_config(default_vocab_size="many"), "default_vocab_size must be a whole number"),
        (_config(default_vocab_size=5000), "512 tokens, but 4936 are announced"),
        (_config(default_vocab_size=NUM_SPECIAL), "0 are announced"),
        (_config(default_num_special_tokens=20), "impossible or second place"),
        (_vocab(3, {"rank": 4, "token_bytes": "AA=="}), r"vocab\[3\]: rank 4 out of order"),
        (_vocab(3, {"rank": 3, "token_bytes": "not base64"}), r"vocab\[3\]"),
        (_vocab(3, {"rank": 3}), r"vocab\[3\]: 'token_bytes'"),
        (_vocab(3, None), r"vocab\[3\]"),
        ({"audio": {"sampling_rate": 16000}}, "audio_encoding_config is missing"),
        ({"special_tokens": ["<s>"]}, r"special_tokens\[0\].token_str is missing"),
    ],
)
def test_a_malformed_file_is_refused_by_the_key(tmp_path, changes, message):
    with pytest.raises(WrongTokenizer, match=message):
        read_tekken(write_tekken(tmp_path, **changes))


@pytest.mark.parametrize("text", ["", "[1, 2]", "{", "[" * 100_000])
def test_a_file_that_is_no_document_is_refused(tmp_path, text):
    path = tmp_path / "tekken.json"
    path.write_text(text)
    with pytest.raises(DamagedFile, match=r"tekken\.json"):
        read_tekken(path)


def test_tokens_beyond_the_announced_size_are_left_out(tmp_path):
    tekken = read_tekken(write_tekken(tmp_path, **_config(default_vocab_size=NUM_SPECIAL + 256)))
    assert tekken.vocab == tuple(
        base64.b64decode(entry["token_bytes"]) for entry in tekken_document()["vocab"][:256]
    )


def test_another_models_tokenizer_is_refused(tmp_path):
    tekken = read_tekken(write_tekken(tmp_path))
    larger = replace(TINY, decoder=replace(TINY.decoder, vocab_size=1024))
    with pytest.raises(WrongTokenizer, match="512 tokens, the model 1024"):
        check_tekken(tekken, larger)
    slower = replace(TINY, downsample=8)
    with pytest.raises(WrongTokenizer, match="frame_rate is"):
        check_tekken(tekken, slower)
    check_tekken(read_tekken(write_tekken(tmp_path, audio=None)), slower)
