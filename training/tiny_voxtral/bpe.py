"""The tokenizer: byte-pair merges learnt from the text, in Mistral's tekken.json form.

Ids 0..63 are special, then the 256 bytes, then the merges, 2048 in all. Each word is encoded with
its leading space, split where the real tokenizer's pattern splits it.

    python -m tiny_voxtral.bpe --text DIR/train.txt --out DIR/tekken.json
"""

from __future__ import annotations

import argparse
import base64
import json
import re
from collections import Counter, defaultdict
from functools import cache
from itertools import pairwise
from pathlib import Path

SPECIAL, VOCABULARY = 64, 2048
BOS, EOS, PAD, WORD = 1, 2, 32, 33
NAMES = {
    0: "<unk>", 1: "<s>", 2: "</s>", 3: "[INST]", 4: "[/INST]", 5: "[AVAILABLE_TOOLS]",
    6: "[/AVAILABLE_TOOLS]", 7: "[TOOL_RESULTS]", 8: "[/TOOL_RESULTS]", 9: "[TOOL_CALLS]",
    10: "[IMG]", 11: "<pad>", 12: "[IMG_BREAK]", 13: "[IMG_END]", 14: "[PREFIX]", 15: "[MIDDLE]",
    16: "[SUFFIX]", 17: "[SYSTEM_PROMPT]", 18: "[/SYSTEM_PROMPT]", 19: "[TOOL_CONTENT]",
    24: "[AUDIO]", 25: "[BEGIN_AUDIO]", PAD: "[STREAMING_PAD]", WORD: "[STREAMING_WORD]",
}  # fmt: skip
PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
AUDIO = {
    "sampling_rate": 16000,
    "frame_rate": 12.5,
    "audio_encoding_config": {"num_mel_bins": 128, "hop_length": 160, "window_size": 400},
    "chunk_length_s": None,
    "transcription_format": "streaming",
    "transcription_delay_ms": 480,
    "streaming_look_ahead_ms": 2.5,
    "streaming_look_back_ms": 52.5,
    "streaming_n_left_pad_tokens": 32,
}


def split(word: str) -> list[bytes]:
    """What PATTERN makes of one lower-case word with its leading space."""
    return [part.encode() for part in re.findall(r"[^a-z]?[a-z]+|'+", " " + word)]


def learn(words: Counter[str], size: int) -> list[bytes]:
    """The 256 bytes and the most frequent merges, `size` entries in all."""
    counts: Counter[bytes] = Counter()
    for word, n in words.items():
        for part in split(word):
            counts[part] += n
    parts = [[bytes([b]) for b in part] for part in counts]
    weights = list(counts.values())
    pairs: Counter[tuple[bytes, bytes]] = Counter()
    where: defaultdict[tuple[bytes, bytes], set[int]] = defaultdict(set)
    for i, part in enumerate(parts):
        for pair in pairwise(part):
            pairs[pair] += weights[i]
            where[pair].add(i)
    entries = [bytes([b]) for b in range(256)]
    while len(entries) < size:
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        entries.append(best[0] + best[1])
        for i in where.pop(best):
            for pair in pairwise(parts[i]):
                pairs[pair] -= weights[i]
            parts[i] = _merge(parts[i], best)
            for pair in pairwise(parts[i]):
                pairs[pair] += weights[i]
                where[pair].add(i)
        del pairs[best]
    return entries


def _merge(part: list[bytes], pair: tuple[bytes, bytes]) -> list[bytes]:
    merged: list[bytes] = []
    for piece in part:
        # A piece just made by this merge is longer than pair[0], so it never merges twice.
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged


class Tokenizer:
    """Words to ids and back, from a tekken.json."""

    def __init__(self, path: Path) -> None:
        vocabulary = json.loads(path.read_text())["vocab"]
        self.entries = [base64.b64decode(entry["token_bytes"]) for entry in vocabulary]
        self._rank = {entry: i for i, entry in enumerate(self.entries)}
        self.encode_word = cache(self._encode_word)

    def _encode_word(self, word: str) -> tuple[int, ...]:
        ids: list[int] = []
        for part in split(word):
            pieces = [bytes([b]) for b in part]
            while len(pieces) > 1:
                ranks = [self._rank.get(a + b, VOCABULARY) for a, b in pairwise(pieces)]
                i = min(range(len(ranks)), key=ranks.__getitem__)
                if ranks[i] == VOCABULARY:
                    break
                pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
            ids += [self._rank[piece] + SPECIAL for piece in pieces]
        return tuple(ids)

    def decode(self, ids: list[int]) -> str:
        """The text of a token row, special ids left out."""
        data = b"".join(self.entries[i - SPECIAL] for i in ids if i >= SPECIAL)
        return data.decode(errors="replace").strip()


def write_tekken(entries: list[bytes], path: Path) -> None:
    """Write the vocabulary, the special tokens and the audio section."""
    vocab = []
    for rank, entry in enumerate(entries):
        try:
            text = entry.decode()
        except UnicodeDecodeError:
            text = None
        encoded = base64.b64encode(entry).decode()
        vocab.append({"rank": rank, "token_bytes": encoded, "token_str": text})
    special = [
        {"rank": i, "token_str": NAMES.get(i, f"<SPECIAL_{i}>"), "is_control": True}
        for i in range(SPECIAL)
    ]
    config = {
        "pattern": PATTERN,
        "num_vocab_tokens": len(entries),
        "default_vocab_size": VOCABULARY,
        "default_num_special_tokens": SPECIAL,
        "version": "v13",
    }
    document = {"config": config, "vocab": vocab, "special_tokens": special, "audio": AUDIO}
    path.write_text(json.dumps(document, separators=(",", ":")) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    words = Counter(args.text.read_text().replace(",", "").split())
    write_tekken(learn(words, VOCABULARY - SPECIAL), args.out)
    tokenizer = Tokenizer(args.out)
    pieces = sum(len(tokenizer.encode_word(word)) * n for word, n in words.items())
    print(f"{pieces / words.total():.2f} pieces a word")


if __name__ == "__main__":
    main()
