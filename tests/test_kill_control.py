"""Requests from many shells at once while the coordinator is killed: each is done once, or refused with a reason."""

import os
import random
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from meshtune.errors import InputError
from meshtune.plan.locate import existing
from meshtune.record.log import Record
from meshtune.study import requests
from meshtune.study.requests import Reply, ask_of_trial, enqueue
from tests.kill import command_study, meshtune, run_apart

PLACES = 50


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study whose trials take a while, so that requests fall into its search."""
    monkeypatch.setenv("PROGRAM_SECONDS", "0.7")
    return command_study(tmp_path, sampler="random", trials=60, block=4)


def started(path: Path, trials: int) -> "subprocess.Popen[bytes]":
    """The coordinator, once so many more trials than before have ended."""
    log = path.parent / "finished.log"
    before = len(log.read_text().splitlines()) if log.exists() else 0
    process = subprocess.Popen(meshtune("tune", path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not log.exists() or len(log.read_text().splitlines()) < before + trials:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    return process


@pytest.mark.slow
def test_fifty_requests_while_the_coordinator_is_killed_twice(running: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "WAIT_SECONDS", 0.3)  # whoever asks does not wait for the next run
    chance, coordinator = random.Random(3), started(running, 3)
    replies: dict[int, Reply | str] = {}

    def ask(number: int) -> None:
        """An enqueued point has a value of its own, by which it is found; every fifth request of a trial is twice."""
        time.sleep(0.15 * number * chance.random())
        try:
            if number % 2:
                replies[number] = enqueue(running, {"x": -4 - number / 1000, "y": 0.5, "k": 3})
            else:
                replies[number] = ask_of_trial(running, number // 5, "stop")
        except InputError as error:
            replies[number] = str(error)

    with ThreadPoolExecutor(PLACES) as people:
        asking = [people.submit(ask, number) for number in range(PLACES)]
        for _ in range(2):
            time.sleep(1.5)
            os.kill(coordinator.pid, signal.SIGKILL)
            coordinator.wait()
            coordinator = started(running, 1)
        for each in asking:
            each.result()
    coordinator.send_signal(signal.SIGTERM)
    coordinator.wait(timeout=60)
    ended = run_apart(running)
    assert ended.returncode == 0, ended.stderr
    assert len(replies) == PLACES
    study = existing(running)
    record = Record(study.url, study.name)
    assert not requests.waiting(study.folder)
    points = [trial.hyperparameters["x"] for trial in record.trials]
    for number, reply in replies.items():
        point = -4 - number / 1000
        if isinstance(reply, str):
            assert reply
            assert points.count(point) == 0
            continue
        answer = record.answers[reply.request.number]
        assert reply.answer in (None, answer)  # what a person was told is what stands there
        assert answer.words
        if number % 2:
            assert points.count(point) == int(answer.done)
        elif answer.done:
            trial = record.trials[number // 5]
            assert trial.outcome is not None
            assert trial.outcome.ending in ("stopped_early", "complete", "crashed", "out_of_memory")
    done = [answer for answer in record.answers.values() if answer.done]
    assert len([answer for answer in done if answer.request.action == "enqueue"]) == sum(
        points.count(p) for p in {-4 - number / 1000 for number in range(1, PLACES, 2)}
    )
    assert len(record.answers) == sum(isinstance(reply, Reply) for reply in replies.values())
