"""What studies ask the autoscaler of a Ray cluster for, and only for as long as they live.

Ray keeps a request (`request_resources`) until another one takes its place, also where whoever made it is dead; nodes
that nobody uses would be paid for. So an actor of its own on the head makes it, for all studies of the cluster
together: each says again and again what it wants. Who says nothing for `LEASE_SECONDS` wants nothing any more. The
actor ends itself, and takes the request back, once nobody wants anything. A request that another program makes takes
the place of this one, and this one takes the place of that.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.exceptions import RayError

NAME, NAMESPACE = "autoscaling", "meshtune"  # of the actor
LEASE_SECONDS = 30.0
BEAT_SECONDS = 5.0  # between two words of a study
END_SECONDS = 10.0  # that the last word may take

Place = Mapping[str, Mapping[str, Any]]  # what a process takes: `resources`, and `labels` of its node


class Lease:
    """What Ray runs on the head."""

    def __init__(self) -> None:
        self._wanted: dict[str, tuple[list[Place], float]] = {}
        self._lock = threading.Lock()
        self._asked: list[Place] | None = None
        self._begun = time.monotonic()
        threading.Thread(target=self._watch, daemon=True).start()

    def want(self, who: str, places: list[Place]) -> None:
        """Take a study's word in place of the one before."""
        with self._lock:
            self._wanted[who] = (places, time.monotonic())
            self._ask()

    def _ask(self) -> None:
        now = time.monotonic()
        self._wanted = {who: one for who, one in self._wanted.items() if one[0] and now - one[1] < LEASE_SECONDS}
        asked = [place for places, _ in self._wanted.values() for place in places]
        if asked != self._asked:
            bundles, labels = [dict(one["resources"]) for one in asked], [dict(one["labels"]) for one in asked]
            request_resources(bundles=bundles, bundle_label_selectors=labels)
            self._asked = asked

    def _watch(self) -> None:
        while self._wanted or time.monotonic() - self._begun < LEASE_SECONDS:
            time.sleep(1.0)
            with self._lock:
                self._ask()
        ray.kill(ray.get_actor(NAME, NAMESPACE))


class Wish:
    """A study's side: `place` is what each of its processes takes. For one thread."""

    def __init__(self, place: Place):
        self._place = place
        self._who = f"{socket.gethostname()}:{os.getppid()}"  # the coordinator: another driver of it takes its place
        self._count, self._said = 0, -BEAT_SECONDS
        self._lease: Any = None
        self._answer: Any = None

    def want(self, count: int) -> None:
        """Say that room for so many processes is wanted; to be called again and again."""
        if count == self._count and time.monotonic() - self._said < BEAT_SECONDS:
            return
        if self._lease is None or not self._heard():
            self._lease = _actor()
        self._count, self._said = count, time.monotonic()
        self._answer = self._lease.want.remote(self._who, [self._place] * count)

    def end(self) -> None:
        """Want nothing any more."""
        if self._count:
            self.want(0)
            with contextlib.suppress(RayError):
                ray.get(self._answer, timeout=END_SECONDS)

    def _heard(self) -> bool:
        """Whether the last word was taken, as far as that is known: the actor may have ended."""
        try:
            ray.get(self._answer, timeout=0)
        except ray.exceptions.GetTimeoutError:
            return True
        except RayError:
            return False
        return True


def _actor() -> Any:
    return (
        ray.remote(Lease)
        .options(
            name=NAME,
            namespace=NAMESPACE,
            lifetime="detached",  # so that it is there when the study is not
            get_if_exists=True,
            num_cpus=0,
            resources={"node:__internal_head__": 0.001},  # no node is kept for its sake
            max_restarts=-1,
            max_task_retries=0,
        )
        .remote()
    )
