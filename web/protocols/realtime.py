"""``WS /v1/realtime``, a path that two protocols share: OpenAI's and vLLM's.

The server speaks first, in words that both understand; the client's first message tells which of
them it speaks.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import ClassVar

from ...streaming.engine import EngineInfo
from ...streaming.events import Event
from ...streaming.options import SessionOptions
from .appended import MAX_APPEND
from .compact import compact
from .contract import MAX_BINARY, Action, Denial, Out, Protocol, Welcome
from .fields import Json, parse
from .openai_realtime import OpenAIRealtimeProtocol
from .vllm import VllmProtocol


class RealtimeProtocol(Protocol):
    """One client of either. Until it has said something that makes sense, it is OpenAI's."""

    name = OpenAIRealtimeProtocol.name
    names: ClassVar[tuple[str, ...]] = (OpenAIRealtimeProtocol.name, VllmProtocol.name)

    # Those of Speaches put it there.
    key_params: ClassVar[tuple[str, ...]] = ("api_key",)

    max_text: ClassVar[int] = MAX_APPEND
    max_binary: ClassVar[int] = MAX_BINARY
    tick_s: ClassVar[float | None] = None

    def __init__(self, params: Mapping[str, str], info: EngineInfo) -> None:
        self._vllm = VllmProtocol(params, info)
        self._spoken: Protocol = OpenAIRealtimeProtocol(params, info)
        self._known = False

    def welcome(self, offered: Sequence[str]) -> Welcome:
        """As OpenAI's: vLLM has no sub-protocol."""
        return self._spoken.welcome(offered)

    def preset(self, settings: object) -> None:
        """As OpenAI's: it has client secrets."""
        self._spoken.preset(settings)

    def denied(self, code: str, message: str) -> Denial | None:
        """As OpenAI's."""
        return self._spoken.denied(code, message)

    def connected(self) -> list[Out]:
        """One ``session.created`` with the fields of both."""
        fields: dict[str, object] = {}
        for protocol in (self._vllm, self._spoken):
            [created] = protocol.connected()
            fields |= json.loads(str(created))
        return [compact(fields)]

    def received(self, frame: str | bytes) -> list[Action]:
        """The first message decides who answers this and all others."""
        if not self._known:
            with contextlib.suppress(ValueError):
                self._decide(*parse(frame))
        return self._spoken.received(frame)

    def _decide(self, kind: str, message: Json) -> None:
        self._known = True
        names_a_model = "model" in message and "session" not in message
        if (kind == "session.update" and names_a_model) or (
            kind == "input_audio_buffer.commit" and "final" in message
        ):
            self._spoken = self._vllm
            self.name = self._vllm.name

    def opened(self, session: str, options: SessionOptions) -> list[Out]:
        """As the client's protocol has it, like everything below."""
        return self._spoken.opened(session, options)

    def told(self, event: Event) -> list[Out]:
        """An event."""
        return self._spoken.told(event)

    def tick(self) -> list[Out]:
        """What was held back."""
        return self._spoken.tick()

    def refused(self, code: str, message: str) -> list[Out]:
        """A refusal."""
        return self._spoken.refused(code, message)

    def failed(self, code: str, message: str) -> list[Out]:
        """The end."""
        return self._spoken.failed(code, message)
