"""Opening sessions on one engine, and shutdown."""

from __future__ import annotations

import asyncio

import pytest
from support.counting import (
    OPEN,
    CountingEngine,
    of,
    pcm,
    tone,
)

from voxlive.errors import EngineError, EngineFull
from voxlive.streaming.events import (
    SessionClosed,
    SessionError,
)
from voxlive.streaming.service import Service


async def test_one_more_than_capacity_is_refused_and_close_frees_the_slot(
    service: Service, engine: CountingEngine
) -> None:
    session = service.open(OPEN)
    with pytest.raises(EngineFull, match="all 1 sessions"):
        service.open(OPEN)
    await session.close()
    await session.close()
    assert engine.streams[0].closed
    assert [event async for event in session.events()] == [SessionClosed(0)]
    await service.open(OPEN).close()


async def test_shutdown_drains_sessions_and_refuses_new_ones(service: Service) -> None:
    session = service.open(OPEN)
    await session.push(pcm(tone(2.5)))
    closing = asyncio.create_task(service.aclose(drain_s=5))
    events = [event async for event in session.events()]
    await closing
    assert [(event.code, event.fatal) for event in of(SessionError, events)] == [
        ("shutting_down", False)
    ]
    assert session.text == "w1 w2"
    assert isinstance(events[-1], SessionClosed)
    with pytest.raises(EngineError) as refusal:
        service.open(OPEN)
    assert refusal.value.code == "shutting_down"
