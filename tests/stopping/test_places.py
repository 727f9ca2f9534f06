"""Places of the next segment: the hopeless freeze, the likely go on, and nothing is lost for good."""

from __future__ import annotations

import numpy as np
import pytest

from meshtune.stopping.freeze_thaw import fit
from meshtune.stopping.places import chances, decide
from tests.stopping.test_freeze_thaw import study


def test_with_no_end_known_all_go_on() -> None:
    points, curves, _ = study(6, seed=0, stopped=6)
    decision = decide(fit(points, np.arange(2), curves), places=4)
    assert (decision.chances == 1).all()
    assert decision.freezes == ()
    assert len(decision.places) == 4


def test_before_three_have_ended_nothing_freezes() -> None:
    points, curves, _ = study(20, seed=3, stopped=18)
    early = decide(fit(points, np.arange(2), curves), places=18)
    assert early.freezes == ()
    assert (early.chances[:18] == 1).all()
    assert set(early.places) == set(range(18))
    whole = study(20, seed=3, stopped=0)[1]
    later = decide(fit(points, np.arange(2), [*curves[:17], *whole[17:]]), places=18)
    assert (later.chances < 1).all()
    assert later.freezes


def test_what_cannot_win_freezes_and_its_place_goes_to_another() -> None:
    points, curves, ends = study(24, seed=3, stopped=6)
    model = fit(points, np.arange(2), curves)
    decision = decide(model, places=4, points=np.array([[0.0, 0.0], [0.9, 0.9]]))
    assert model.best == pytest.approx(ends[6:].min())
    hopeless = [index for index in range(6) if ends[index] > ends[6:].min() + 0.1]
    assert set(hopeless) <= set(decision.freezes)
    assert not set(decision.places) & set(decision.freezes)
    assert 24 in decision.places  # where losses are lowest
    assert all(decision.chances[index] < 0.02 for index in decision.freezes)
    assert all(decision.chances[place] >= 0.02 or place >= 24 for place in decision.places)
    more = decide(model, places=4, noise=1.0)
    assert set(more.freezes) == set(range(6))
    assert more.places == ()


def test_a_frozen_trial_is_thawed_where_the_one_that_beat_it_is_not_there() -> None:
    """The best of a study, measured at three rungs."""
    points, curves, ends = study(16, seed=4, stopped=0)
    leader = int(ends.argmin())
    curves[leader] = curves[leader][:3]
    assert decide(fit(points, np.arange(2), curves), places=1).places == (leader,)
    better = [*curves, [(share, loss - 0.3) for share, loss in curves[(leader + 1) % 16]]]
    near = np.concatenate([points, points[leader : leader + 1]])
    assert decide(fit(near, np.arange(2), better), places=1).freezes == (leader,)


def test_two_that_can_only_win_where_the_other_does_too_share_their_chance() -> None:
    """The leader, measured at three rungs, and the same again: alone it is the lowest of those that train for sure."""
    points, curves, ends = study(16, seed=4, stopped=0)
    leader = int(ends.argmin())
    curves[leader] = curves[leader][:3]
    alone, both = (
        fit(np.concatenate([points, points[[leader] * more]]), np.arange(2), [*curves, *[curves[leader]] * more])
        for more in (0, 1)
    )
    one = chances(alone.final(), alone.finished, np.inf)
    assert one.tolist() == [float(trial == leader) for trial in range(16)]
    two = chances(both.final(), both.finished, np.inf, draws=4096)
    assert two[leader] == pytest.approx(0.5, abs=0.1)
    assert two[leader] + two[16] == pytest.approx(1)
    assert 0 < chances(alone.final(), alone.finished, alone.best)[leader] < 1
    assert chances(both.final(), both.finished, both.best - 10).sum() == 0


def test_of_two_that_are_as_likely_the_one_that_is_nearly_done_goes_first() -> None:
    points, curves, ends = study(20, seed=6, stopped=0)
    first, second = np.argsort(ends)[:2].tolist()
    points[second] = points[first]
    curves[second] = [(share, loss) for share, loss in curves[first][:5]]
    curves[first] = curves[first][:3]
    assert decide(fit(points, np.arange(2), curves), places=1).places == (second,)
