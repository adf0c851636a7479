"""Batches over a socket: order, bounds, and what an end sees of the other's end."""

import socket
import struct
import threading

import pytest

from voxlive.processes import process
from voxlive.processes.process import BatchedSender, disconnect, read_messages


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_a_sender_keeps_every_threads_order(ends):
    ours, theirs = ends
    sender: BatchedSender[tuple[int, int]] = BatchedSender(theirs, "test")

    def put(thread: int) -> None:
        for number in range(5000):
            sender.put((thread, number))

    threads = [threading.Thread(target=put, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    got: list[object] = []
    incoming = read_messages(ours)
    count = 0
    while len(got) < 20000:
        got += next(incoming)
        count += 1
    for n in range(4):
        assert [number for thread, number in got if thread == n] == list(range(5000))
    assert count < len(got)
    theirs.close()
    sender.close()
    assert list(incoming) == []


def test_a_batch_is_bounded_and_a_flush_sends_all(ends, monkeypatch):
    monkeypatch.setattr(process, "PAUSE_S", 600)  # the sender's own thread sends one batch
    monkeypatch.setattr(process, "MAX_BATCH", 10)
    ours, theirs = ends
    sender: BatchedSender[int] = BatchedSender(theirs, "test")
    sender.put(0)
    incoming = read_messages(ours)
    assert next(incoming) == [0]
    for number in range(25):
        sender.put(number)
    sender.flush()
    assert sender.waiting == 0
    assert [len(next(incoming)) for _ in range(3)] == [10, 10, 5]


def test_an_end_that_reads_nothing_is_given_up_at_the_bound(ends, monkeypatch):
    monkeypatch.setattr(process, "MAX_WAITING", 100)
    ours, theirs = ends
    sender: BatchedSender[bytes] = BatchedSender(theirs, "test")
    sender.put(bytes(1 << 22))  # more than a socket holds: its thread waits for the reader
    while sender.waiting:
        pass
    for _ in range(200):
        sender.put(b"")
    sender.close()
    assert sender.waiting == 0
    assert list(read_messages(theirs)) == []
    assert list(read_messages(ours)) == [], "half a batch is none"
    sender.put(b"")
    assert sender.waiting == 0, "nothing is kept for an end that is gone"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_message_that_cannot_be_pickled_ends_the_connection(ends):
    ours, theirs = ends
    sender: BatchedSender[object] = BatchedSender(theirs, "test")
    sender.put(lambda: None)
    assert list(read_messages(ours)) == []
    sender.close()


@pytest.mark.parametrize("head", [struct.pack("!i", 2_000_000_000), b"\0\0"])
def test_a_length_beyond_the_bound_or_half_of_one_is_the_end(ends, head):
    ours, theirs = ends
    theirs.sendall(head)
    theirs.shutdown(socket.SHUT_WR)
    assert list(read_messages(ours)) == []


def test_whoever_hangs_up_ends_both_readers(ends):
    ours, theirs = ends
    read = [threading.Thread(target=list, args=(read_messages(end),)) for end in ends]
    for thread in read:
        thread.start()
    disconnect(ours)
    disconnect(ours)
    for thread in read:
        thread.join()
    theirs.close()
    disconnect(theirs)
