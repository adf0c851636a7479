"""Every wire format, with any client: whatever it sends and whenever its session ends."""

import json

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from support.dialects import DIALECTS, Dialect, Reading, letters
from support.scripted_session import ScriptedSession

from voxlive.web.protocols import PROTOCOLS
from voxlive.web.protocols.contract import ENDING_CODES

FAILURES = ["engine_failed", "bad_audio", "slow_client", "server_full", "too_big"]


class Client(RuleBasedStateMachine):
    """A client and its session, which holds that nothing follows a close.

    What is said bit by bit is only ever added to, what is called final is its beginning, and every
    flush has its answer. At a good end both are all words that were said.
    """

    def __init__(self, dialect: Dialect) -> None:
        super().__init__()
        self.dialect = dialect
        self.session = ScriptedSession(dialect.connect(), None)
        self.reading = Reading()
        self.read = 0

    @rule(data=st.data())
    def says_something(self, data):
        self.hear(data, data.draw(self.dialect.frames, "frame"))

    @rule(data=st.data())
    def goes_on_speaking(self, data):
        self.hear(data, *data.draw(st.lists(self.dialect.frames, max_size=6), "frames"))

    @rule(data=st.data(), steps=st.integers(1, 20))
    def is_heard(self, data, steps):
        self.session.data = data
        for _ in range(steps):
            self.session.work()

    @rule()
    def waits(self):
        self.session.tick()

    @rule(data=st.data(), once=st.integers(0, 9))
    def makes_a_mistake(self, data, once):
        if once == 7:
            self.hear(data, data.draw(self.dialect.garbage, "garbage"))

    @rule(code=st.sampled_from(FAILURES), once=st.integers(0, 29))
    def is_failed(self, code, once):
        if once == 7 and not self.session.closed:
            self.session.fail(code)

    @rule(code=st.sampled_from(ENDING_CODES), once=st.integers(0, 29))
    def has_had_its_time(self, code, once):
        if once == 7 and self.session.is_open and not self.session.closed:
            self.session.data = None
            self.session.shut_down(code)

    def hear(self, data, *frames):
        self.session.data = data
        if not self.session.closed:
            self.session.client_says(*frames)

    @invariant()
    def is_told_consistently(self):
        before = dict(self.reading.deltas)
        for out in self.session.outs[self.read :]:
            if isinstance(out, str):
                self.dialect.read(self.reading, json.loads(out))
        self.read = len(self.session.outs)
        for source, said in before.items():
            assert self.reading.deltas.get(source, "").startswith(said)
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
            self.is_told_consistently()
        else:
            session.fail("shutting_down")
        if session.failed:
            return
        said = {source: letters("".join(texts)) for source, texts in session.said.items()}
        assert without_nothing(self.reading.deltas) == without_nothing(said)
        if not self.dialect.leaves:
            assert without_nothing(self.reading.finals) == without_nothing(said)


def without_nothing(texts: dict[str, str]) -> dict[str, str]:
    return {source: text for source, text in texts.items() if text}


def test_no_protocol_is_left_out():
    assert {name.partition(" ")[0] for name in DIALECTS} == {*PROTOCOLS, "WhisperLive", "Wyoming"}


@pytest.mark.parametrize("name", DIALECTS)
def test_whatever_a_client_does(name):
    run_state_machine_as_test(
        lambda: Client(DIALECTS[name]),
        settings=settings(
            max_examples=80,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
