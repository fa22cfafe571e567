"""Which texts share a pass, in which order, and what is predicted for those who come later."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentilora.serving.queue import LOW, NORMAL, Entry, Expired, Pace, PassQueue

BUDGET = 100


@pytest.fixture
def loop():
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def entry(loop, size=10, group="a", deadline=10.0, **options):
    return Entry([1] * size, group, loop.create_future(), deadline, **options)


def drained(queue):
    passes = []
    while chosen := queue.take():
        passes.append(chosen.entries)
    return passes


SPECS = st.lists(
    st.tuples(
        st.integers(1, 150),  # tokens
        st.sampled_from("abc"),  # group
        st.sampled_from([NORMAL, LOW]),
        st.booleans(),  # alone
        st.booleans(),  # its client is gone
    ),
    max_size=40,
)


@given(SPECS, st.booleans())
def test_every_text_whose_client_waits_is_in_exactly_one_pass(specs, have_waited):
    loop = asyncio.new_event_loop()
    queue = PassQueue(BUDGET, clock=lambda: 0.0)
    entries = []
    for size, group, lane, alone, gone in specs:
        since = -9.0 if have_waited else 0.0
        entries.append(entry(loop, size, group, lane=lane, alone=alone, since=since))
        if gone:
            entries[-1].future.cancel()
    queue.add(entries)
    passes = drained(queue)
    taken = [one for chosen in passes for one in chosen]
    assert sorted(map(id, taken)) == sorted(id(e) for e in entries if not e.future.cancelled())
    for chosen in passes:
        assert len({(e.group, e.lane) for e in chosen}) == 1
        assert len(chosen) == 1 or sum(e.num_tokens for e in chosen) <= BUDGET
        assert len(chosen) == 1 or not any(e.alone for e in chosen)
    # A text that has waited for long is in its lane's next pass, so nobody waits for ever.
    for lane in (NORMAL, LOW):
        left = [e for e in entries if e.lane == lane and not e.future.cancelled()]
        for chosen in (p for p in passes if p[0].lane == lane):
            alike = [e for e in left if (e.group, e.alone) == (chosen[0].group, chosen[0].alone)]
            assert chosen[0] is (left if have_waited else alike)[0]
            left = [e for e in left if e not in chosen]
    lanes = [chosen[0].lane for chosen in passes]
    assert lanes == sorted(lanes)  # explanations last
    assert (len(queue), queue.num_tokens) == (0, 0)
    loop.close()


def test_a_text_longer_than_the_budget_has_a_pass_of_its_own(loop):
    """text-embeddings-inference #723: longer than the budget, it loops for ever."""
    queue = PassQueue(BUDGET)
    long = entry(loop, 10 * BUDGET, deadline=float("inf"))
    queue.add([long, entry(loop, deadline=float("inf"))])
    assert queue.take().entries == [long]
    assert len(queue) == 1


def test_what_waits_or_is_under_way_is_divided_among_the_passes_side_by_side(loop):
    queue = PassQueue(4096, clock=lambda: 0.0)
    queue.num_side_by_side = 3
    queue.add([entry(loop, 100) for _ in range(60)])
    first, second = queue.take(), queue.take()
    assert [len(first.entries), len(second.entries)] == [20, 20]
    queue.finished(first, 1.0)
    queue.add([entry(loop, 100) for _ in range(40)])  # 60 wait, 20 are under way
    assert [len(queue.take().entries) for _ in range(3)] == [26, 26, 8]
    queue = PassQueue(4096, clock=lambda: 0.0)
    queue.num_side_by_side = 3
    queue.add([entry(loop, 100) for _ in range(12)])  # too few to be divided
    assert [len(queue.take().entries) for _ in range(2)] == [10, 2]


def test_the_largest_group_goes_first_until_another_has_waited_for_long(loop):
    now = 0.0
    queue = PassQueue(4096, clock=lambda: now)
    small = entry(loop, 10, group="small", since=0.0)
    queue.add([small, *(entry(loop, 10, group="large", since=0.0) for _ in range(3))])
    assert [e.group for e in queue.take().entries] == ["large"] * 3
    now = 2.0
    queue.add([entry(loop, 10, group="large", since=0.0) for _ in range(3)])
    assert queue.take().entries == [small]


def test_a_deadline_ends_the_wait_and_not_the_others(loop):
    now = 0.0
    queue = PassQueue(BUDGET, clock=lambda: now)
    late, fine = entry(loop, deadline=1.0), entry(loop, deadline=5.0)
    queue.add([late, fine])
    now = 2.0
    assert queue.take().entries == [fine]
    assert isinstance(late.future.exception(), Expired)


def test_failing_all_skips_clients_that_are_gone(loop):
    queue = PassQueue(BUDGET)
    gone, here = entry(loop), entry(loop, lane=LOW)
    gone.future.cancel()
    queue.add([gone, here])
    queue.fail_all(ValueError())
    assert isinstance(here.future.exception(), ValueError)
    assert (len(queue), queue.num_tokens) == (0, 0)


def test_the_predicted_wait_is_that_of_the_pass_under_way_and_of_what_waits(loop):
    now = 0.0
    queue = PassQueue(BUDGET, clock=lambda: now)
    assert queue.predicted_wait() == 0  # nothing is known yet
    for size in (100, 16, 32):
        queue.pace.add(size, 0.5 + 0.01 * size)
    queue.add([entry(loop, 100), entry(loop, 50), entry(loop, 500, lane=LOW)])
    assert queue.predicted_wait() == pytest.approx(2 * 0.5 + 1.5)
    assert queue.predicted_wait(LOW) == pytest.approx(7 * 0.5 + 6.5)
    assert [e.num_tokens for e in queue.take().entries] == [100]
    now = 1.0
    assert queue.predicted_wait() == pytest.approx(0.5 + (0.5 + 0.5))
    now = 9.0  # it takes longer than predicted
    assert queue.predicted_wait() == pytest.approx(0.5 + 0.5)
    queue.num_side_by_side = 2
    assert queue.predicted_wait() == pytest.approx(0.5)


@given(st.lists(st.tuples(st.integers(1, 5000), st.floats(1e-4, 10)), max_size=30))
def test_the_pace_is_never_negative_and_grows_with_the_tokens(passes):
    pace = Pace()
    for num_tokens, seconds in passes:
        pace.add(num_tokens, seconds)
    times = [pace.pass_seconds(n) for n in (1, 10, 100, 500, 1000, 5000)]
    assert times == sorted(times) and times[0] >= 0
    assert pace.seconds(1000, 100) == pytest.approx(10 * pace.pass_seconds(100))


def test_many_small_passes_do_not_make_large_ones_look_slow():
    pace = Pace()
    pace.add(4096, 1.0)
    for _ in range(1000):
        pace.add(50, 0.1)
    assert pace.pass_seconds(4096) == 1.0
