from voxlive.streaming.events import Draft, Flushed, Lag, SessionClosed, SessionError
from voxlive.streaming.outbox import Outbox


async def read_all(outbox: Outbox) -> list[object]:
    return [event async for event in outbox.read()]


async def test_unread_drafts_and_lags_are_replaced_and_nothing_else_is() -> None:
    outbox = Outbox(limit=10)
    for event in (Draft(0, "a"), Draft(0, "ab"), Flushed("x"), Flushed("y"), Lag(1.0), Lag(2.0)):
        assert outbox.put(event)
    outbox.close(SessionClosed(5))
    assert await read_all(outbox) == [
        Draft(0, "ab"), Flushed("x"), Flushed("y"), Lag(2.0), SessionClosed(5),
    ]  # fmt: skip


async def test_the_bound_is_told_and_the_last_events_pass_it() -> None:
    outbox = Outbox(limit=3)
    assert [outbox.put(Flushed(str(n))) for n in range(3)] == [True, True, False]
    error = SessionError("slow_client", "")
    outbox.close(error, SessionClosed(0))
    outbox.put(Flushed("late"))
    assert await read_all(outbox) == [
        Flushed("0"), Flushed("1"), Flushed("2"), error, SessionClosed(0),
    ]  # fmt: skip
