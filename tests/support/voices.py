"""Networks for turns and speakers that follow from how loud their audio is, and what is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from voxlive.speakers.tracker import Likeness
from voxlive.values import Samples

WHO_AND_WHEN = {"turns": True, "diarize": True}
"""What a client starts with that wants both."""
_TURNS = ("turn_started", "turn_likely_ended", "turn_resumed", "turn_ended", "turn")


class Levels:
    """An encoder by which a voice is how loud it is: vectors between two voices for both."""

    likeness = Likeness()

    def embed(self, audio: Samples) -> Samples:
        levels = np.rint(np.abs(audio) * 10).astype(int)
        vector = np.bincount(levels[levels > 1], minlength=12)[:12].astype(np.float32)
        return vector / max(float(np.linalg.norm(vector)), 1e-6)


class Onsets:
    """A turn's end is as likely as follows from how often something became loud in its audio."""

    def judge(self, audio: Sequence[Samples]) -> Samples:
        loud = [np.abs(one[len(one) % 160 :].reshape(-1, 160)).max(1) > 0.1 for one in audio]
        onsets = [int((~one[:-1] & one[1:]).sum()) for one in loud]
        return np.array([(0.02, 0.99, 0.3, 0.7)[count % 4] for count in onsets], np.float32)


def turns_of(messages: list[dict[str, Any]], source: str | None = None) -> list[dict[str, Any]]:
    """What was said of the turns of a source, without numbers, their words behind it all."""
    of_turns = [m for m in messages if m["type"] in _TURNS and m.get("source") == source]
    of_turns.sort(key=lambda one: one["type"] == "turn")
    return [{key: value for key, value in one.items() if key != "seq"} for one in of_turns]


def labels_of(messages: list[dict[str, Any]]) -> dict[tuple[int, int], list[int]]:
    """Whose each word was said to be, by its segment and place, in order."""
    labels: dict[tuple[int, int], list[int]] = {}
    for message in messages:
        for one in message["ranges"] if message["type"] == "speakers" else ():
            first, last = one["words"]
            for place in range(first, last + 1):
                labels.setdefault((one["segment"], place), []).append(one["speaker"])
    return labels


def words_by_place(messages: list[dict[str, Any]]) -> dict[tuple[int, int], dict[str, Any]]:
    """The words by segment and place."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for message in messages:
        for word in message["words"] if message["type"] == "words" else ():
            place = sum(segment == message["segment"] for segment, _ in found)
            found[message["segment"], place] = word
    return found


def check_turns(turns: list[dict[str, Any]], text: str) -> None:
    """Each begins, ends and has its words once, in order; all words are some turn's."""
    events = [one for one in turns if one["type"] != "turn"]
    turn, state = 0, "none"
    for one in events:
        assert one["turn"] == turn
        before = {"turn_started": "none", "turn_likely_ended": "speech", "turn_resumed": "likely"}
        if one["type"] == "turn_ended":
            assert state in ("speech", "likely")
            turn, state = turn + 1, "none"
        else:
            assert state == before[one["type"]]
            state = "likely" if one["type"] == "turn_likely_ended" else "speech"
    assert state == "none"
    closed = [one for one in turns if one["type"] == "turn"]
    assert [one["turn"] for one in closed] == [*range(turn)]
    assert " ".join(filter(None, (one["text"] for one in closed))).split() == text.split()
