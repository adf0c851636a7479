from hypothesis import given
from hypothesis import strategies as st

from voxlive.web.access.bucket import TokenBucket

steps = st.lists(st.floats(0, 120), min_size=1, max_size=60)


@given(st.floats(0.1, 600), steps)
def test_never_more_than_a_rest_and_the_rate_allow(per_minute, gaps):
    """In any stretch of time there are at most a full bucket and what flowed into it."""
    bucket = TokenBucket(per_minute)
    now, taken = 0.0, []
    for gap in gaps:
        now += gap
        if bucket.wait_s(now) == 0:
            bucket.take(now)
            taken.append(now)
    for first, start in enumerate(taken):
        for count, end in enumerate(taken[first:], 1):
            assert count <= max(1.0, per_minute) + (end - start) * per_minute / 60 + 1e-6


@given(st.floats(0.1, 600), st.integers(0, 700))
def test_whoever_waits_as_long_as_told_gets_one(per_minute, tries):
    bucket = TokenBucket(per_minute)
    now = 0.0
    for _ in range(min(tries, 50)):
        now += bucket.wait_s(now) * (1 + 1e-9) + 1e-9
        assert bucket.wait_s(now) <= 1e-6
        bucket.take(now)


def test_a_rest_fills_it_and_no_more():
    bucket = TokenBucket(3)
    for _ in range(3):
        assert bucket.wait_s(0) == 0
        bucket.take(0)
    assert bucket.wait_s(0) == 20
    assert bucket.wait_s(15) == 5
    for _ in range(3):
        assert bucket.wait_s(1e6) == 0
        bucket.take(1e6)
    assert bucket.wait_s(1e6) == 20
