import numpy as np
import pytest
from support.tiny_voxtral import BLOCK, decode, encode, mel_tokens, quantised_weights

from voxlive.decoders.decoder import TextDecoder
from voxlive.encoders.encoder import AudioEncoder
from voxlive.training.golden.sample import BOS, STREAMING_PAD
from voxlive.training.golden.weights import TINY


def everything(name):
    return 32, 4


def mixed(name):
    """Per-layer settings as mixed recipes have them: q, k and v cannot be joined."""
    if name.endswith((".q", ".up", "linear1")):
        return None
    return (64, 8) if name.endswith((".v", "embed")) else (32, 5)


@pytest.mark.parametrize("choose", [everything, mixed])
def test_packed_weights_run_as_their_unpacked_numbers(choose):
    mel, results = mel_tokens(60), []
    for dense in (False, True):
        weights = quantised_weights(choose, dense=dense)
        encoder = AudioEncoder(TINY, weights, slots=1, block=BLOCK)
        decoder = TextDecoder(TINY, weights, slots=1, bos=BOS, pad=STREAMING_PAD, block=BLOCK)
        embeddings = encode(encoder, 0, mel, (4,))
        results.append((embeddings, decode(decoder, 0, embeddings)))
    (packed, tokens), (unpacked, same) = results
    assert np.abs(packed - unpacked).max() < 1e-4 * np.abs(unpacked).max()
    assert tokens == same
