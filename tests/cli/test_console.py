"""The log: what a line may hold, how many of a kind there are, and that nobody waits for it."""

import fcntl
import json
import logging
import os
import subprocess
import sys
import threading

import pytest

from voxlive.cli.console import (
    BURST,
    RATE,
    JsonFormatter,
    LineRates,
    LogWriter,
    TextFormatter,
    print_error,
)
from voxlive.errors import RequestRefused
from voxlive.processes.logs import MOST_ARGUMENT, MOST_MESSAGE, MOST_TRACEBACK, portable

PLACE = "a place"


def record(message: str, *args: object, line: int = 1, level: int = logging.WARNING):
    return logging.LogRecord("voxlive.test", level, PLACE, line, message, args, None)


def failed(message: str) -> logging.LogRecord:
    made = record("failed")
    try:
        raise ValueError(message)
    except ValueError:
        made.exc_info = sys.exc_info()
    return made


def lines(count: int, **options) -> list[logging.LogRecord]:
    return [record("line %d", number, **options) for number in range(count)]


# What a line may hold.


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
@pytest.mark.parametrize("value", ["x" * 60_000, b"x" * 60_000, "\x00" * 60_000])
def test_client_input_is_cut(formatter, value):
    said = formatter.format(record("refused a page of %r", value))
    assert len(said) < 8 * MOST_ARGUMENT + 200
    assert len(formatter.format(record("%s" * 100, *[value] * 100))) < 6 * MOST_MESSAGE + 200
    assert len(formatter.format(record(str(value)))) < 6 * MOST_MESSAGE + 200


def test_a_cut_argument_gives_its_length_and_keeps_the_rest_of_the_line():
    said = TextFormatter().format(record("a page of %r, see --allow-origin", "x" * 60_000))
    assert "(60000 characters)'" in said
    assert said.endswith("see --allow-origin")


@pytest.mark.parametrize("control", ["\n", "\r", "\x1b[2J", "\x9b", "\x7f", "\u2028", "\u202e"])
def test_control_characters_are_escaped(control):
    said = TextFormatter().format(record("no such path: %s", f"a{control}ERROR forged"))
    assert said.isprintable()
    assert "ERROR forged" in said
    assert json.loads(JsonFormatter().format(record("%s", control)))["message"] == control


def test_a_lone_surrogate_is_written():
    said = TextFormatter().format(record("%s", "a\ud800"))
    assert said.encode().endswith(b"a\\ud800")


def test_a_traceback_is_cut_at_its_beginning_and_indented():
    said = TextFormatter().format(failed("x" * 60_000 + "\nERROR forged\x1b")).split("\n")
    assert all(line.startswith("    ") for line in said[1:])
    assert said[-1] == "    ERROR forged\\x1b"
    assert sum(map(len, said)) < MOST_TRACEBACK + 1000
    error = json.loads(JsonFormatter().format(failed("x" * 60_000 + " the end")))["error"]
    assert error.endswith("the end")
    assert len(error) < MOST_TRACEBACK + 100


def test_arguments_that_do_not_fit_are_a_line_all_the_same():
    assert "%d bytes (with other arguments: ('many',))" in TextFormatter().format(
        record("%d bytes", "many")
    )


def test_a_childs_record_is_small_and_formatted_the_same():
    big = failed("the end")
    big.msg, big.args = "%s and %s", ("x" * 60_000, b"y" * 60_000)
    sent = portable(big)
    assert sent.exc_info is None
    for formatter in (TextFormatter(), JsonFormatter()):
        assert formatter.format(sent) == formatter.format(big)


# How many of a kind.


def test_a_flood_of_one_kind_is_counted_and_others_are_written():
    rates = LineRates()
    flood = [rates.allow(one, 0.0) for one in lines(10_000)]
    assert flood.count(True) == BURST
    assert rates.allow(record("another kind", line=2), 0.0)
    [report] = rates.report()
    assert report.left_out == 10_000 - BURST
    assert (
        report.getMessage() == f"{10_000 - BURST} more lines like this one were left out: line 9999"
    )
    assert not rates.leaving_out
    assert rates.report() == []


def test_a_second_later_there_are_some_more():
    rates = LineRates()
    for one in lines(10_000):
        rates.allow(one, 0.0)
    assert [rates.allow(one, 1.0) for one in lines(100)].count(True) == RATE
    assert [rates.allow(one, 1000.0) for one in lines(10_000)].count(True) == BURST


def test_debug_has_ten_times_as_many():
    rates = LineRates()
    taken = [rates.allow(one, 0.0) for one in lines(10_000, level=logging.DEBUG)]
    assert abs(taken.count(True) - 10 * BURST) <= 1


def test_kinds_are_bounded():
    rates = LineRates()
    for number in range(100_000):
        rates.allow(record("a line", line=number), 0.0)
    assert len(rates._kinds) <= 1001


# That nobody waits.


def writer(capacity: int) -> tuple[LogWriter, int]:
    """One that writes to a pipe of 4 KiB, and the end to read."""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    made = LogWriter(write, capacity, clock=lambda: 0.0)
    made.setFormatter(logging.Formatter("%(message)s"))
    return made, read


def test_unread_lines_are_dropped_counted_and_reported():
    log, read = writer(capacity=50_000)
    for number in range(900):
        # It comes back, or the test does not end.
        log.handle(record("%d %s", number, "x" * 150, line=number))
        assert log._used <= 50_200  # the notes of what was dropped come on top
    kept, dropped = [], 0
    with os.fdopen(read) as pipe:
        while len(kept) + dropped < 900:
            first, said, *_ = pipe.readline().split(" ", 1)
            if said.startswith("lines of the log were dropped here"):
                dropped += int(first)
            else:
                kept.append(int(first))
    assert len(kept) + dropped == 900
    assert dropped > 500
    assert kept == sorted(kept)


def test_lines_from_many_threads_are_whole_and_all_there():
    log, read = writer(capacity=1 << 20)

    def say(place: int) -> None:
        for number in range(BURST):
            log.handle(record("%d-%d", place, number, line=place))

    threads = [threading.Thread(target=say, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    with os.fdopen(read) as pipe:
        heard = [pipe.readline().rstrip() for _ in range(8 * BURST)]
    assert sorted(heard) == sorted(f"{p}-{n}" for p in range(8) for n in range(BURST))
    for place in range(8):
        assert [one for one in heard if one.startswith(f"{place}-")] == [
            f"{place}-{number}" for number in range(BURST)
        ]


def test_a_log_that_cannot_be_written_is_dropped():
    log, read = writer(capacity=1000)
    os.close(read)
    for one in lines(BURST):
        log.handle(one)
    log.flush()
    assert log._used == 0
    assert log._dropped == BURST


# A program that logs and ends, however its log is read.
PROGRAM = """
import logging, sys
from voxlive.cli.console import start_logging
start_logging("info", as_json=True)
for number in range(500):
    logging.warning("line %d", number)
print("done", flush=True)
"""


@pytest.mark.parametrize("reads", [True, False])
def test_a_program_ends_with_its_log_written_or_unread(reads):
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    command = [sys.executable, "-c", PROGRAM]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=write, text=True)
    os.close(write)
    with process, os.fdopen(read) as log:
        assert process.stdout.readline() == "done\n"
        said = [json.loads(line) for line in log] if reads else []
        assert process.wait(60) == 0
    if reads:
        written = [line for line in said if "left_out" not in line]
        assert len(written) + sum(line.get("left_out", 0) for line in said) == 500
        assert len(written) >= BURST


@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full"])
def test_a_program_without_a_log_runs(closed):
    command = ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, PROGRAM]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "done\n"


def test_at_its_end_a_process_waits_for_no_thread_of_the_log():
    """The interpreter stops threads as they are, with the lock too, and may log after that."""
    log, read = writer(capacity=50_000)
    log.handle(record("the last line", line=1))
    log.close()
    assert not log._thread.is_alive()
    holding, done = threading.Event(), threading.Event()

    def hold():
        with log._changed:
            holding.set()
            done.wait(60)

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    assert holding.wait(60)
    late = threading.Thread(target=log.handle, args=(record("too late", line=2),), daemon=True)
    late.start()
    late.join(10)
    assert not late.is_alive()
    done.set()
    holder.join(60)
    assert os.read(read, 4096) == b"the last line\n"


@pytest.mark.parametrize(
    ("param", "shown"),
    [
        ("delay_ms", "--delay-ms: it has none"),
        ("timestamp_granularities[]", "--words: it has none"),
        ("response_format", "--format: it has none"),
        ("prompt", "--prompt: it has none"),
        ("file", "it has none"),
        (None, "it has none"),
    ],
)
def test_an_error_names_the_option_that_it_is_about(param, shown, capsys):
    print_error(RequestRefused("unsupported_option", "it has none", param))
    assert capsys.readouterr().err == f"voxlive: {shown}\n"
