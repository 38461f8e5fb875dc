"""Processes that work side by side."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from helpers.work import (
    ENDLESS,
    KILL,
    PRINT,
    QUIT,
    REFUSE,
    SLOW,
    make_batches,
    make_nothing,
    make_work,
)

from geocalc.errors import GeoCalcError, InputError
from geocalc.runs import processes
from geocalc.runs.workers import Lost, WorkerPool


@pytest.fixture(params=["copies", "interpreters"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of either kind."""
    monkeypatch.setattr(processes, "can_be_copied", lambda: request.param == "copies")


def results(pool: WorkerPool, words: list[str]) -> dict[int, tuple[str, int] | Lost]:
    for number, word in enumerate(words):
        pool.add(number, (number, word))
    found = {}
    while pool.n_open:
        found.update(pool.collect())
    assert pool.collect() == []
    return found


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked about does not."""
    try:
        os.kill(pid, 0)
        state = (
            Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
            if Path("/proc/self/stat").exists()
            else "?"
        )
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"


@pytest.mark.slow
def test_work_is_shared_and_nobody_waits_for_the_slow() -> None:
    words = [SLOW, *"abcdef", PRINT]
    with WorkerPool(make_work, 2) as pool:
        found = results(pool, words)
        assert [found[k][0] for k in range(8)] == words
        pids = [found[k][1] for k in range(8)]
        assert set(pids) == set(pool.pids)
        assert len(set(pids)) == 2
        assert pids.count(pids[0]) <= 3  # whoever had the slow one; the other did the rest


def test_no_more_processes_than_work() -> None:
    with WorkerPool(make_work, 3) as pool:
        assert pool.pids == []
        assert len(results(pool, ["a"])) == 1
        assert len(pool.pids) == 1


@pytest.mark.usefixtures("kind")
def test_a_process_that_is_killed_costs_nothing(tmp_path: Path) -> None:
    words = [*"ab", KILL, *"cd", KILL + "2"]
    with WorkerPool(partial(make_work, str(tmp_path)), 2) as pool:
        found = results(pool, words)
    assert [found[k][0] for k in range(6)] == words


@pytest.mark.usefixtures("kind")
def test_work_that_kills_every_process_is_lost_alone() -> None:
    words = ["a", KILL, "b", QUIT, "c"]
    with WorkerPool(make_work, 2) as pool:
        found = results(pool, words)
    assert [found[k][0] for k in (0, 2, 4)] == ["a", "b", "c"]
    assert found[1] == Lost(reason="was ended by SIGKILL (out of memory?)")
    assert found[3] == Lost(reason="ended with exit status 3; standard error may say why")


def test_a_process_has_several_pieces_of_work_and_shares_them_evenly() -> None:
    with WorkerPool(make_batches, 2, capacity=4.0) as pool:
        for number in range(6):
            pool.add(number, (number, "a"))
        assert pool.n_waiting == 0
        found = {}
        while pool.n_open:
            found.update(pool.collect())
        pids = [found[k][1] for k in range(6)]
    assert sorted(pids.count(pid) for pid in set(pids)) == [3, 3]


def test_work_beside_that_which_ends_a_process_is_done() -> None:
    with WorkerPool(make_batches, 2, capacity=4.0) as pool:
        found = results(pool, ["a", KILL, "b", "c", QUIT, "d", "e", "f"])
    assert [found[k][0] for k in (0, 2, 3, 5, 6, 7)] == list("abcdef")
    assert isinstance(found[1], Lost)
    assert isinstance(found[4], Lost)


@pytest.mark.usefixtures("kind")
def test_what_the_work_refuses_is_raised() -> None:
    with WorkerPool(make_work, 2) as pool, pytest.raises(InputError, match="not with me"):
        results(pool, ["a", REFUSE, "b"])


@pytest.mark.usefixtures("kind")
def test_processes_that_cannot_start_are_told() -> None:
    with (
        WorkerPool(make_nothing, 2) as pool,
        pytest.raises(GeoCalcError, match=r"cannot be started: .* exit status 7"),
    ):
        results(pool, ["a", "b"])


def test_what_cannot_be_handed_over_is_told() -> None:
    with pytest.raises(InputError, match="cannot be handed to other processes"):
        WorkerPool(lambda: None, 2)


@pytest.mark.usefixtures("kind")
def test_closing_ends_work_in_the_middle() -> None:
    started = time.monotonic()
    with WorkerPool(make_work, 2) as pool:
        for number in range(3):
            pool.add(number, (number, ENDLESS))
        pids = pool.pids
    assert not any(is_alive(pid) for pid in pids)
    assert pool.n_open == 0
    assert time.monotonic() - started < 30.0  # the work alone takes 60


OWNER = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with it ignored
from helpers.work import ENDLESS, make_work
from geocalc.runs.workers import WorkerPool
with WorkerPool(make_work, 2) as pool:
    pool.add(0, (0, "a"))
    pool.collect()
    for number in range(1, 99):
        pool.add(number, (number, ENDLESS))
    print(*pool.pids, flush=True)
    while pool.n_open:
        pool.collect()
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_their_owner(end: signal.Signals) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", OWNER],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    ) as owner:
        pids = [int(word) for word in owner.stdout.readline().split()]
        assert len(pids) == 2
        assert all(is_alive(pid) for pid in pids)
        owner.send_signal(end)
        said = owner.stderr.read().decode()
    assert ("KeyboardInterrupt" in said) == (end is signal.SIGINT)
    limit = time.monotonic() + 5
    while any(is_alive(pid) for pid in pids) and time.monotonic() < limit:
        time.sleep(0.02)
    assert not any(is_alive(pid) for pid in pids)
