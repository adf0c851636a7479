"""What a child hands to its parent of its log."""

import logging
import socket
import threading

from voxlive.processes.logs import ForwardedRecord
from voxlive.processes.process import BatchedSender, ForwardLogs, read_messages


def test_what_is_logged_there_is_logged_here(caplog):
    ours, theirs = socket.socketpair()
    sender: BatchedSender[object] = BatchedSender(theirs, "test")
    there = logging.Logger("voxlive.engines.voxtral.engine")
    there.addHandler(ForwardLogs(sender))
    try:
        raise FloatingPointError("overflow")
    except FloatingPointError as error:
        there.error("a step of the model failed", exc_info=error, extra={"of": threading.Lock()})
    [logged] = next(read_messages(ours))
    assert isinstance(logged, ForwardedRecord)
    logging.getLogger(logged.record.name).handle(logged.record)
    assert "a step of the model failed" in caplog.text
    assert "FloatingPointError: overflow" in caplog.text
    sender.close()


def test_records_are_dropped_and_counted_while_too_many_wait():
    class BusySender:
        waiting = 1000

        def __init__(self) -> None:
            self.sent: list[str] = []

        def put(self, message: ForwardedRecord) -> None:
            self.sent.append(message.record.getMessage())

    sender = BusySender()
    there = logging.Logger("there")
    there.addHandler(ForwardLogs(sender))
    for number in range(3):
        there.error("line %d", number)
    assert sender.sent == []
    sender.waiting = 0
    there.error("line %d", 3)
    there.error("line %d", 4)
    assert sender.sent == ["line 3 (3 lines of this process were dropped before)", "line 4"]
