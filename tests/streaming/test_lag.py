from voxlive.streaming.clock import SAMPLE_RATE
from voxlive.streaming.events import Lag
from voxlive.streaming.lag import LagTold


def test_it_is_told_once_a_second_and_only_if_it_changed():
    lag = LagTold(100.0)
    assert lag.next(5 * SAMPLE_RATE, 100.9) is None
    assert lag.next(5 * SAMPLE_RATE, 101.0) == Lag(5.0)
    assert lag.next(9 * SAMPLE_RATE, 101.9) is None
    assert lag.next(5 * SAMPLE_RATE + 1000, 102.5) is None
    assert lag.next(4 * SAMPLE_RATE, 102.6) == Lag(4.0)


def test_a_lag_that_is_gone_is_told_as_well():
    lag = LagTold(0.0)
    assert lag.next(0, 10.0) is None
    assert lag.next(SAMPLE_RATE, 20.0) == Lag(1.0)
    assert lag.next(0, 30.0) == Lag(0.0)
