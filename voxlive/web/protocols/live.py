"""The native protocol of ``WS /v1/live``; docs/live-protocol.md describes it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, ClassVar

from voxlive.engines.contract import EngineInfo, StreamOptions
from voxlive.errors import ProtocolError, UnsupportedOption, close_code
from voxlive.recognisers.contract import Task
from voxlive.recognisers.vocabulary import BadVocabulary, vocabulary_of
from voxlive.speakers.labels import SpeakerNamed, SpeakersFound
from voxlive.speakers.tracker import SpeakerOptions
from voxlive.store.contract import AddSent
from voxlive.streaming.crosstalk import MAX_SOURCES
from voxlive.streaming.events import (
    Draft,
    Event,
    Flushed,
    Lag,
    LanguageDetected,
    LongText,
    Recovered,
    SegmentClosed,
    SessionCheckpoint,
    SessionClosed,
    SessionError,
    SessionWarning,
    SpeechStarted,
    SpeechStopped,
    TurnClosed,
    UtteranceEnded,
    Words,
)
from voxlive.streaming.ingest.formats import CONTAINER, ENCODINGS, AudioFormat
from voxlive.streaming.intake import SessionOptions
from voxlive.streaming.replacements import BadReplacement, Replacements
from voxlive.turns.tracker import (
    EAGERNESS,
    THRESHOLD,
    WAIT_MS,
    TurnEnded,
    TurnEvent,
    TurnLikelyEnded,
    TurnOptions,
    TurnResumed,
    TurnStarted,
)
from voxlive.vad.gate import GateOptions
from voxlive.values import SAMPLE_RATE, seconds
from voxlive.web.protocols.contract import (
    ENDING_CODES,
    MAX_ERROR_CHARS,
    MAX_TEXT,
    Action,
    AudioFrame,
    CloseSocket,
    CorrectCaptions,
    FindEngine,
    FlushSession,
    NameSpeaker,
    OpenSession,
    Out,
    Protocol,
    Refuse,
    RememberVoice,
    RestoredProtocol,
    ResumeSession,
    SetTurns,
    StopSession,
)
from voxlive.web.protocols.fields import (
    Json,
    check_fields,
    encode_json,
    flag,
    integer,
    is_json,
    language,
    number,
    parse_message,
    quoted,
    speaker_named,
    string,
)
from voxlive.web.protocols.sent import SentMessages, received_messages

_FORMATS = (*ENCODINGS, CONTAINER)
_START_FIELDS = (
    *("type", "format", "rate", "channels", "language"),
    *("task", "vocabulary", "commit", "model"),
    *("vad", "words", "drafts", "delay_ms", "replacements", "resumable", "store"),
    *("keep_audio", "sources", "suppress_leaks", "turns", "diarize"),
)
_SPEAKER_FIELDS = ("max_speakers", "min_speech_ms", "speakers", "profiles")
_TURN_FIELDS = ("eagerness", "threshold", "eager_threshold", "max_wait_ms")
_RESUME_FIELDS = ("type", "session", "token", "have", "from", "received")
_MAX_RESUME = 256_000  # characters; other messages have MAX_TEXT
_MAX_SAMPLES = 1 << 53
_ACK_EVERY_S = 2.0
_VAD_FIELDS = tuple(field.name for field in fields(GateOptions))
_MAX_ID_CHARS = 200
_MAX_SOURCE_CHARS = 64
_MAX_CORRECTED_CHARS = 4000


class LiveProtocol(Protocol):
    """One client of the native protocol."""

    name = "live"
    max_text: ClassVar[int] = _MAX_RESUME
    tick_s: ClassVar[float | None] = _ACK_EVERY_S
    resumes = True

    def __init__(self, _params: Mapping[str, str], info: EngineInfo) -> None:
        self._info = info
        self._find: FindEngine | None = None
        self._seq = 0
        self._started = False
        self._stopped = False
        self._ending: str | None = None
        self._words = self._drafts = True
        self._text = LongText()
        self._texts: dict[str, LongText] = {}  # by source, where there are several
        self._journal: SentMessages | None = None
        self._session = ""
        self._token = ""
        self._stored = self._keeps_audio = False
        self._epoch = 1
        self._rate = SAMPLE_RATE
        self._acknowledged = 0
        self._taken: int | None = None  # messages that the store gets; None: it needs none
        self._kept = 1  # before which it has them: ``ready`` it does not need
        self._restored = False
        self._close: CloseSocket | None = None
        self._turns: TurnOptions | None = None

    def offer_engines(self, find: FindEngine) -> None:
        """``start`` may name one."""
        self._find = find

    def received(self, frame: str | bytes) -> list[Action]:
        """The first frame must be ``start``; later ones that are wrong are refused one by one."""
        if isinstance(frame, str) and len(frame) > MAX_TEXT and not self._resumes_with(frame):
            raise ProtocolError("too_big", f"a message may have {MAX_TEXT} characters")
        if not self._started:
            return [self._first(frame)]
        try:
            if self._stopped:
                return self._after_stop(frame)
            if isinstance(frame, bytes) and not is_json(frame):
                return [AudioFrame(frame)]
            return [self._command(frame)]
        except ValueError as error:
            return [Refuse("bad_message", str(error))]

    def _resumes_with(self, frame: str) -> bool:
        try:
            return not self._started and parse_message(frame)[0] == "resume"
        except ValueError:
            return False

    def _first(self, frame: str | bytes) -> OpenSession | ResumeSession:
        try:
            if not is_json(frame):
                raise ValueError('the first message must be {"type": "start", …}, then audio')
            kind, message = parse_message(frame)
            match kind:
                case "start":
                    return self._start(message)
                case "resume":
                    return self._resume(message)
            raise ValueError(
                f'the first message must be of type "start" or "resume", not {quoted(kind)}'
            )
        except (ValueError, BadReplacement, BadVocabulary, UnsupportedOption) as error:
            raise ProtocolError("bad_start", str(error)) from error

    def _resume(self, message: Json) -> ResumeSession:
        check_fields(message, _RESUME_FIELDS, "resume")
        token = string(message, "token", _MAX_ID_CHARS)
        if token is None:
            raise ValueError('resume needs the "token" that ready gave as "resume"')
        self._started = True
        have = integer(message, "have", -1, _MAX_SAMPLES, -1)
        first = integer(message, "from", 0, _MAX_SAMPLES, 0)
        return ResumeSession(token, have, first, received_messages(message.get("received"), have))

    def _start(self, message: Json) -> OpenSession:
        check_fields(message, _START_FIELDS, "start")
        sources = _sources(message)
        options = SessionOptions(
            _audio(message, len(sources) or 1),
            _gate(message),
            self._stream(message),
            replacements=_replacements(message),
            model=string(message, "model", _MAX_ID_CHARS),
            sources=sources,
            suppress_leaks=flag(message, "suppress_leaks", len(sources) <= MAX_SOURCES),
            turns=_turns(message),
            speakers=_speakers(message),
        )
        self._turns = options.turns
        self._rate = options.audio.rate
        self._texts = {source: LongText() for source in sources}
        self._words = flag(message, "words", True)
        resumable = flag(message, "resumable", False)
        if resumable and options.audio.encoding == CONTAINER:
            raise ValueError("a resumable session needs PCM: a container cannot be cut anywhere")
        if self._find:
            self._info = self._find(options.model)
        self._started = True
        asked = "keep_audio" in message
        return OpenSession(
            options,
            resumable=resumable,
            store=flag(message, "store", True),
            keep_audio=flag(message, "keep_audio", False) if asked else None,
            start=json.dumps(message),
        )

    def on_resumable(self, token: str) -> None:
        """Keep what is sent, for a client that has missed it."""
        self._token, self._journal = token, SentMessages()

    def keep_sent(self) -> None:
        """All but ``ready``, without which nobody can resume: it has the token."""
        self._taken = 0

    def take_sent(self) -> AddSent | None:
        """The numbered messages since the last call."""
        if self._taken is None or not self._journal or self._seq <= self._taken:
            return None
        first, self._taken = max(self._taken, 1), self._seq
        texts = tuple(self._journal.after(first - 1) or ())
        dropped = self._journal.first
        return AddSent(self._session, first, texts, dropped if dropped > 1 else 0)

    def on_sent_kept(self, before: int) -> None:
        """An ``ack`` says so."""
        self._kept = before

    def restore(self, restored: RestoredProtocol) -> None:
        """Number what follows as the other server would have."""
        self._session, self._token, self._epoch = restored.session, restored.token, restored.epoch
        self._journal = SentMessages(restored.first, restored.sent)
        self._seq = self._taken = restored.next
        self._text.append(restored.text)
        for source, text in restored.texts.items():
            self._texts[source].append(text)
        self._acknowledged = restored.acknowledged
        self._restored = True  # the epoch is this connection's
        if restored.ended:
            self._close = CloseSocket(1000)

    def remembered(self, voice: RememberVoice, profile: str) -> list[Out]:
        """``remembered``: a speaker's name, and the profile's id."""
        named = {"speaker": voice.speaker, "name": voice.name, **_of(voice.source)}
        return [self._encode("remembered", **named, profile=profile)]

    def suspended(self, resume_s: float) -> list[Out]:
        """``suspended``, and the close of a server that ends."""
        message = self._passing("suspended", resume_s=resume_s)
        return [message, CloseSocket(close_code("shutting_down"))]

    def on_stored(self, *, audio: bool) -> None:
        """``ready`` says so."""
        self._stored, self._keeps_audio = True, audio

    def resumed(self, resume: ResumeSession, samples: int) -> list[Out]:
        """``resumed``, the messages that the client has not, and the close after the last."""
        if resume.first > samples:
            raise ProtocolError(
                "resume_gap",
                f"the session has {samples} samples, and the client has those from {resume.first} "
                "on: audio between them is lost, so start another session",
            )
        missed = self._journal.after(resume.have) if self._journal else None
        if missed is None:
            raise ProtocolError(
                "resume_gap",
                f"the messages after {resume.have} are not kept any more, or were never sent: "
                "start another session",
            )
        self._epoch += not self._restored
        self._restored = False
        resumed = self._passing(
            "resumed", session=self._session, epoch=self._epoch, samples=samples
        )
        return [resumed, *missed, *([self._close] if self._close else [])]

    def _stream(self, message: Json) -> StreamOptions:
        self._drafts = flag(message, "drafts", True)
        return StreamOptions(
            language=language(message),
            delay_ms=integer(message, "delay_ms", 1, 60_000, None),
            drafts=self._drafts,
            task=_task(message),
            vocabulary=_vocabulary(message),
            commit=string(message, "commit", _MAX_ID_CHARS),
        )

    def _after_stop(self, frame: str | bytes) -> list[Action]:
        """A client that came back does not know whether its stop had arrived."""
        if self._epoch > 1 and is_json(frame) and parse_message(frame)[0] == "stop":
            return []
        raise ValueError("nothing may follow stop")

    def _command(self, frame: str | bytes) -> Action:
        kind, message = parse_message(frame)
        match kind:
            case "flush":
                check_fields(message, ("type", "id", "turn"), "flush")
                marker = string(message, "id", _MAX_ID_CHARS)
                if marker is None:
                    raise ValueError('flush needs an "id", which flushed will repeat')
                return FlushSession(marker, flag(message, "turn", False))
            case "turns":
                check_fields(message, ("type", *_TURN_FIELDS), "turns")
                if self._turns is None:
                    raise ValueError('the session has no turns: "turns" in start asks for them')
                chosen = {name: value for name, value in message.items() if name != "type"}
                self._turns = _turn_options(chosen, self._turns)
                return SetTurns(self._turns)
            case "correct":
                check_fields(message, ("type", "segment", "words", "text"), "correct")
                segment = integer(message, "segment", 0, _MAX_SAMPLES, None)
                words = integer(message, "words", 1, _MAX_SAMPLES, None)
                text = message.get("text")
                if text != "":
                    text = string(message, "text", _MAX_CORRECTED_CHARS)
                if segment is None or words is None or text is None:
                    raise ValueError(
                        'correct needs a "segment", how many "words" of it, and "text"'
                    )
                return CorrectCaptions(segment, words, text)
            case "name":
                return NameSpeaker(*speaker_named(message))
            case "remember":
                consent = flag(message, "consent", False)
                named = {name: message[name] for name in message if name != "consent"}
                speaker, name, source = speaker_named(named)
                if not consent:
                    raise ValueError(
                        'a voice is remembered with the consent of whose it is: "consent": true'
                    )
                if not name:
                    raise ValueError('a voice is remembered by a "name"')
                return RememberVoice(speaker, name, source)
            case "stop":
                check_fields(message, ("type",), "stop")
                self._stopped = True
                return StopSession()
            case "start":
                raise ValueError("the session has started; connect again for another one")
            case _:
                raise ValueError(
                    f'{quoted(kind)} is not a message type: use "flush", "turns", "correct", '
                    '"name", "remember" or "stop"'
                )

    def opened(self, session: str, options: SessionOptions) -> list[Out]:
        """``ready``, with everything as it is in force."""
        info, audio, stream = self._info, options.audio, options.stream
        pcm = audio.encoding != CONTAINER
        self._session = session
        more: dict[str, object] = {"resume": self._token, "epoch": self._epoch}
        more = more if self._token else {}
        if self._stored:
            more["store"] = True
        if options.sources:
            more["sources"] = list(options.sources)
            more["suppress_leaks"] = options.suppress_leaks
        if options.turns:
            more["turns"] = asdict(options.turns)
        if options.speakers:
            more["diarize"] = asdict(options.speakers)
        if self._keeps_audio:
            more["keep_audio"] = True
        ready: list[Out] = [
            self._encode(
                "ready",
                session=session,
                model=info.model,
                engine=info.engine,
                device=info.device,
                language=info.language_of(stream),
                languages=list(info.languages),
                task=stream.task,
                vocabulary=len(info.terms(stream)),
                commit=stream.commit or info.default_commit,
                delay_ms=stream.delay_ms or info.default_delay_ms,
                format=audio.encoding,
                rate=audio.rate if pcm else None,
                channels=audio.channels if pcm else None,
                vad=asdict(options.gate.with_pause(info.pause_ms)) if options.gate else False,
                **more,
            )
        ]
        ready += [
            self._encode("warning", code=warning.code, message=warning.message)
            for warning in info.ignored(stream)
        ]
        return ready

    def on_event(self, event: Event) -> list[Out]:
        """Each event is one message; the last is followed by the close."""
        match event:
            case Words(source=source):
                text = self._texts[source] if source else self._text
                text.append(event.text)
                return [self._words_message(event)] if self._words else []
            case Draft(segment, text, source):
                draft = {"segment": segment, "text": text, **_of(source)}
                return [self._passing("draft", **draft)] if self._drafts else []
            case SessionError(code, message, fatal):
                self._ending = code if code in ENDING_CODES else self._ending
                return self.failed(code, message) if fatal else self.refused(code, message)
            case SessionWarning(code, message):
                return [self._encode("warning", code=code, message=message[:MAX_ERROR_CHARS])]
            case SessionClosed(samples):
                return self._done(samples)
            case UtteranceEnded():
                return []
            case SessionCheckpoint():
                self._acknowledged = event.first(self._rate) * self._rate // SAMPLE_RATE
                return [self._ack()]
            case SegmentClosed(_, _, end, text, source=source, covered=covered):
                if source:
                    self._text.append(f"{source}: {text.strip()}\n")
                closed = self._encode_event(event)
                if not self._journal or self._taken is not None:
                    return [closed]
                upto = end if covered is None else covered
                self._acknowledged = upto * self._rate // SAMPLE_RATE
                return [closed, self._ack()]
            case _:
                return [self._encode_event(event)]

    def tick(self) -> list[Out]:
        """A sign of life in a resumable session: a browser does not see pings."""
        return [self._ack()] if self._journal and not self._close else []

    def _ack(self) -> str:
        stored = {} if self._taken is None else {"stored": self._kept - 1}
        return self._passing("ack", samples=self._acknowledged, **stored)

    def _words_message(self, event: Words) -> str:
        source = _of(event.source)
        items = [
            {
                "text": w.text,
                "start": seconds(w.start),
                "end": seconds(w.end),
                "p": w.probability,
                **({"original": w.original} if w.original is not None else {}),
                **source,
            }
            for w in event.words
        ]
        return self._encode("words", segment=event.segment, words=items, **source)

    def _encode_event(
        self,
        event: (
            SpeechStarted
            | SpeechStopped
            | SegmentClosed
            | TurnEvent
            | TurnClosed
            | SpeakersFound
            | SpeakerNamed
            | Flushed
            | LanguageDetected
            | Recovered
            | Lag
        ),
    ) -> str:
        source = {} if isinstance(event, Flushed) else _of(event.source)
        match event:
            case LanguageDetected(language, probability):
                return self._encode("language", language=language, p=probability, **source)
            case SpeechStarted(at):
                return self._encode("speech_started", t=seconds(at), **source)
            case SpeechStopped(at):
                return self._encode("speech_stopped", t=seconds(at), **source)
            case SegmentClosed(ident, start, end, text):
                times = {"start": seconds(start), "end": seconds(end)}
                return self._encode("segment", id=ident, **times, text=text, **source)
            case TurnStarted(turn, at):
                return self._encode("turn_started", turn=turn, t=seconds(at), **source)
            case TurnLikelyEnded(turn, at, upto, confidence):
                what = {"turn": turn, "t": seconds(at), "upto": seconds(upto), "p": confidence}
                return self._encode("turn_likely_ended", **what, **source)
            case TurnResumed(turn, at):
                return self._encode("turn_resumed", turn=turn, t=seconds(at), **source)
            case TurnEnded(turn, at, upto, confidence, by):
                ended = {"turn": turn, "t": seconds(at), "upto": seconds(upto), "p": confidence}
                return self._encode("turn_ended", **ended, by=by, **source)
            case TurnClosed(turn, start, end, text):
                times = {"start": seconds(start), "end": seconds(end)}
                return self._encode("turn", turn=turn, **times, text=text, **source)
            case SpeakersFound(ranges, speakers, upto=upto):
                named = [
                    {"segment": one.segment, "words": [one.first, one.last], "speaker": one.speaker}
                    for one in ranges
                ]
                found = {"ranges": named, "speakers": speakers, "upto": seconds(upto)}
                return self._encode("speakers", **found, **source)
            case SpeakerNamed(speaker, name):
                return self._encode("speaker_named", speaker=speaker, name=name, **source)
            case Flushed(marker):
                return self._encode("flushed", id=marker)
            case Recovered(at):
                return self._passing("recovered", t=seconds(at), **source)
            case Lag(behind_s):
                return self._passing("lag", behind_s=behind_s, **source)

    def _done(self, samples: int) -> list[Out]:
        code = close_code(self._ending) if self._ending and not self._stopped else 1000
        texts = {source: str(text) for source, text in self._texts.items()}
        more = {"sources": texts} if texts else {}
        done = self._encode("done", duration=seconds(samples), text=str(self._text), **more)
        self._close = CloseSocket(code)
        return [done, self._close]

    def refused(self, code: str, message: str) -> list[Out]:
        """An ``error`` that is not fatal."""
        return [self._error(code, message, fatal=False)]

    def failed(self, code: str, message: str) -> list[Out]:
        """A fatal ``error`` and its close."""
        self._close = CloseSocket(close_code(code))
        return [self._error(code, message, fatal=True), self._close]

    def _error(self, code: str, message: str, fatal: bool) -> str:
        return self._encode("error", code=code, message=message[:MAX_ERROR_CHARS], fatal=fatal)

    def _encode(self, kind: str, **values: object) -> str:
        message = {"type": kind, "seq": self._seq, **values}
        self._seq += 1
        text = encode_json(message)
        if self._journal:
            self._journal.append(text)
        return text

    def _passing(self, kind: str, **values: object) -> str:
        """What is of no use later. In a resumable session it has no number and is not kept."""
        if self._journal is None:
            return self._encode(kind, **values)
        return encode_json({"type": kind, **values})


def _of(source: str) -> dict[str, str]:
    """The field that names the source, in a session that has several."""
    return {"source": source} if source else {}


def _sources(message: Json) -> tuple[str, ...]:
    """The names of the channels, where each is a source of its own."""
    names = message.get("sources")
    if names is None:
        return ()
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError('"sources" must be a list of names, one for each channel')
    for name in names:
        if not (0 < len(name) <= _MAX_SOURCE_CHARS and name.isprintable()):
            raise ValueError(
                f"a source has 1 to {_MAX_SOURCE_CHARS} characters, not {quoted(name)}"
            )
    return tuple(names)


def _audio(message: Json, channels: int) -> AudioFormat:
    encoding = message.get("format")
    if encoding not in _FORMATS:
        raise ValueError(f'"format" must be one of {", ".join(_FORMATS)}, not {quoted(encoding)}')
    rate = integer(message, "rate", 1, 1_000_000, 16_000)
    return AudioFormat(str(encoding), rate, integer(message, "channels", 1, 1000, channels))


def _task(message: Json) -> Task:
    task = message.get("task") or "transcribe"
    if task not in ("transcribe", "translate"):
        raise ValueError(f'"task" must be transcribe or translate, not {quoted(task)}')
    return "translate" if task == "translate" else "transcribe"


def _vocabulary(message: Json) -> tuple[str, ...]:
    terms = message.get("vocabulary")
    if terms is None:
        return ()
    if not isinstance(terms, list) or not all(isinstance(term, str) for term in terms):
        raise ValueError('"vocabulary" must be a list of names and terms')
    return vocabulary_of(terms)


def _replacements(message: Json) -> Replacements:
    entries = message.get("replacements")
    if entries is None:
        return Replacements()
    if not isinstance(entries, dict) or not all(isinstance(t, str) for t in entries.values()):
        raise ValueError('"replacements" must be an object of phrases and what to write for them')
    return Replacements.of(entries)


def _turns(message: Json) -> TurnOptions | None:
    asked = _asked(message, "turns", _TURN_FIELDS)
    return None if asked is None else _turn_options(asked, EAGERNESS["auto"])


def _speakers(message: Json) -> SpeakerOptions | None:
    asked = _asked(message, "diarize", _SPEAKER_FIELDS)
    return None if asked is None else SpeakerOptions(**asked)


def _asked(message: Json, name: str, known: Sequence[str]) -> dict[str, Any] | None:
    """Options of something that ``start`` may ask for, by true or by some of them; else None."""
    asked = message.get(name)
    if asked is None or asked is False:
        return None
    if asked is True:
        return {}
    if not isinstance(asked, dict):
        raise ValueError(f'"{name}" must be true, false or an object, not {quoted(asked)}')
    check_fields(asked, known, name)
    return {option: value for option, value in asked.items() if value is not None}


def _turn_options(asked: Json, before: TurnOptions) -> TurnOptions:
    if (eagerness := asked.get("eagerness")) is not None:
        chosen = next((made for name, made in EAGERNESS.items() if name == eagerness), None)
        if chosen is None:
            known = ", ".join(EAGERNESS)
            raise ValueError(f'"eagerness" must be one of {known}, not {quoted(eagerness)}')
        before = chosen
    return before.changed(
        number(asked, "threshold", *THRESHOLD, None),
        number(asked, "eager_threshold", *THRESHOLD, None),
        integer(asked, "max_wait_ms", *WAIT_MS, None),
    )


def _gate(message: Json) -> GateOptions | None:
    vad = message.get("vad")
    if vad is None or vad is True:
        return GateOptions()
    if vad is False:
        return None
    if not isinstance(vad, dict):
        raise ValueError(f'"vad" must be false or an object, not {quoted(vad)}')
    check_fields(vad, _VAD_FIELDS, "vad")
    return GateOptions(**{name: value for name, value in vad.items() if value is not None})
