"""Every wire format, with any client, whatever it sends and whenever its session ends."""

import json

import pytest
from hypothesis import HealthCheck
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from support.dialects import DIALECTS, Dialect, Reading, letters
from support.examples import examples
from support.scripted_session import ScriptedSession

from voxlive.web.protocols import PROTOCOLS
from voxlive.web.protocols.contract import ENDING_CODES

FAILURES = ["engine_failed", "bad_audio", "slow_client", "server_full", "too_big"]


class AnyClient(RuleBasedStateMachine):
    """A client and its session, which checks that nothing follows a close.

    The text of deltas only ever grows, that of finals is its beginning, and every flush has its
    answer. At an end in good order both are all words of the session.
    """

    def __init__(self, dialect: Dialect) -> None:
        super().__init__()
        self.dialect = dialect
        self.session = ScriptedSession(dialect.connect(), None)
        self.reading = Reading()
        self.read = 0

    @rule(data=st.data())
    def sends_a_frame(self, data):
        self.send(data, data.draw(self.dialect.frames, "frame"))

    @rule(data=st.data())
    def sends_more_frames(self, data):
        self.send(data, *data.draw(st.lists(self.dialect.frames, max_size=6), "frames"))

    @rule(data=st.data(), steps=st.integers(1, 20))
    def session_works(self, data, steps):
        self.session.data = data
        for _ in range(steps):
            self.session.work()

    @rule()
    def ticks(self):
        self.session.tick()

    @rule(data=st.data(), once=st.integers(0, 9))
    def sends_garbage(self, data, once):
        if once == 7:
            self.send(data, data.draw(self.dialect.garbage, "garbage"))

    @rule(code=st.sampled_from(FAILURES), once=st.integers(0, 29))
    def fails(self, code, once):
        if once == 7 and not self.session.closed:
            self.session.fail(code)

    @rule(code=st.sampled_from(ENDING_CODES), once=st.integers(0, 29))
    def is_ended_by_the_server(self, code, once):
        if once == 7 and self.session.is_open and not self.session.closed:
            self.session.data = None
            self.session.shut_down(code)

    def send(self, data, *frames):
        self.session.data = data
        if not self.session.closed:
            self.session.client_sends(*frames)

    @invariant()
    def output_is_consistent(self):
        before = dict(self.reading.deltas)
        for out in self.session.outs[self.read :]:
            if isinstance(out, str):
                self.dialect.read(self.reading, json.loads(out))
        self.read = len(self.session.outs)
        for source, text in before.items():
            assert self.reading.deltas.get(source, "").startswith(text)
        for source, final in self.reading.finals.items():
            assert self.reading.deltas.get(source, "").startswith(final)
        assert self.session.failed or self.reading.answers >= self.session.flushes

    def teardown(self):
        session = self.session
        session.data = None
        while session.work():
            pass
        if session.is_open or session.closed:
            session.shut_down()
            self.output_is_consistent()
        else:
            session.fail("shutting_down")
        if session.failed:
            return
        text = {source: letters("".join(texts)) for source, texts in session.texts.items()}
        assert without_empty(self.reading.deltas) == without_empty(text)
        if not self.dialect.keeps_open:
            assert without_empty(self.reading.finals) == without_empty(text)


def without_empty(texts: dict[str, str]) -> dict[str, str]:
    return {source: text for source, text in texts.items() if text}


def test_no_protocol_is_left_out():
    assert {name.partition(" ")[0] for name in DIALECTS} == {*PROTOCOLS, "WhisperLive", "Wyoming"}


@pytest.mark.parametrize("name", DIALECTS)
def test_output_is_consistent_for_any_client(name):
    run_state_machine_as_test(
        lambda: AnyClient(DIALECTS[name]),
        settings=examples(
            80,
            stateful_step_count=25,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
