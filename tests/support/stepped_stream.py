"""A stream of utterances whose passes are made when a test says so."""

from __future__ import annotations

from support.scripted_recogniser import ScriptedRecogniser, spoken

from voxlive.engines.contract import Committed, Message, Reached, StreamOptions
from voxlive.engines.utterances.commitment import CommitRule
from voxlive.engines.utterances.engine import make_pass
from voxlive.engines.utterances.utterance import DuePass, PassPlan, UtteranceStream
from voxlive.recognisers.contract import Recognition
from voxlive.values import Segment, Word

NOW = CommitRule(2, 0)


class SteppedStream:
    """Feeds a stream and makes its passes when it is told to."""

    def __init__(self, rule=NOW, plan=None, script=None, **more) -> None:
        self.stream = UtteranceStream(rule, plan or PassPlan(), StreamOptions(**more))
        self.recogniser = ScriptedRecogniser(script)
        self.messages: list[Message] = []
        self.due: DuePass | None = None
        self.at = 0

    def feed(self, *words: int, gap: int = 0) -> None:
        audio = spoken(*words)
        self.at += gap
        self.stream.feed(audio, self.at)
        self.at += len(audio)

    def one_pass(self) -> bool:
        """Whether one was due; a draft is after 0.7 s of new audio."""
        if not (self.stream.urgent or self.stream.draftable(0.7)):
            return False
        self.begin()
        self.finish()
        return True

    def begin(self) -> None:
        """Begin a pass, if there is one to make; what else comes until its end finds it late."""
        self.due = self.due or self.stream.begin()

    def finish(self) -> None:
        """End the pass that is under way, if one is."""
        due, self.due = self.due, None
        if due:
            self.messages += self.stream.done(make_pass(self.recogniser, due))

    def passes(self) -> None:
        while self.one_pass():
            pass

    def mark(self, marker: int) -> None:
        self.messages += self.stream.mark(marker)

    @property
    def words(self) -> list[Word]:
        return [w for m in self.messages if isinstance(m, Committed) for w in m.words]

    @property
    def text(self) -> str:
        return "".join(word.text for word in self.words).strip()

    @property
    def reached(self) -> list[int]:
        return [m.marker for m in self.messages if isinstance(m, Reached)]


def recognition(
    text: str, no_speech: float, logprob: float, p: float, tokens: int = 5, length: int = 1
) -> Recognition:
    texts = text.split()
    words = tuple(Word(f" {w}", i * length, (i + 1) * length, p) for i, w in enumerate(texts))
    segment = Segment(0, text, 0, len(words) * length, words)
    return Recognition((segment,), None, None, no_speech, logprob, 1.0, 0.0, tokens)
