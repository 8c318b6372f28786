"""What is measured of agents in physical deception, against values worked out by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from stages.physical_deception import detect, evaluate, evaluation
from stages.physical_deception.agents import Agents, Network, NetworkSettings
from stages.physical_deception.environment import OTHER
from stages.physical_deception.evaluate import Trace
from tests.agents import PLAIN, WORLD

pytestmark = pytest.mark.usefixtures("seeded")


def line(*places: tuple[float, float]) -> Tensor:
    return torch.tensor(places)[:, None, :]


def trace(blue: Tensor, red: Tensor, trapped: list[bool]) -> Trace:
    """One episode with the goal right above and the fake landmark to the right of the centre."""
    seen = torch.zeros(len(blue) - 1, 1, 10)
    return Trace(
        blue, red, torch.tensor([[0.0, 0.8]]), torch.tensor([[0.8, 0.0]]), torch.tensor(trapped)[:, None], seen
    )


def test_measures_of_an_episode_worked_out() -> None:
    blue = line((0.5, 0), (0.7, 0), (0.3, 0.5), (0, 0.7))
    red = line((0.4, 0), (0.6, 0), (0.65, 0), (0.65, 0))
    found = evaluate.measures(trace(blue, red, [False, False, True, True]), WORLD, grid=100)
    assert found["return_deceptive"] == 10 + 10 + 5
    assert found["return_honest"] == 5
    assert found["return_red"] == 1  # together at the first place after a step alone
    assert (found["trapped"], found["led"], found["blue_at_goal"], found["both_at_goal"]) == (1, 1, 1, 0)
    assert found["together"] == pytest.approx(1 / 3)


def test_red_is_led_only_by_blue() -> None:
    far = line((0, 0.8), (0, 0.8), (0, 0.8))
    red = line((0.4, 0), (0.6, 0), (0.65, 0))
    assert evaluate.measures(trace(far, red, [False, False, True]), WORLD, 10)["led"] == 0
    gone = line((0.75, 0), (0, 0.8), (0, 0.8))  # was at the fake landmark, out of red's sight
    assert evaluate.measures(trace(gone, red, [False, False, True]), WORLD, 10)["led"] == 0
    there = line((0.65, 0), (0.7, 0), (0, 0.8), (0, 0.8))  # and here within it
    after = line((0.4, 0), (0.6, 0), (0.6, 0), (0.65, 0))
    assert evaluate.measures(trace(there, after, [False, False, False, True]), WORLD, 10)["led"] == 1
    near = evaluate.measures(trace(red, red, [False, False, True]), WORLD, 10)
    assert near["led"] == 1
    assert evaluate.measures(trace(red, red, [True, True, True]), WORLD, 10)["led"] == 0  # it was there from the start


def test_deceptive_actions_by_the_rubric() -> None:
    """At the centre goal and fake landmark are at a right angle. A move at 30 degrees to the fake one's way is aligned by
    0.866, one at 60 degrees goes rather to the goal, and one that red does not see counts nowhere."""
    moves = {30: True, 60: False, -30: True, -100: False}
    for degrees, deceives in moves.items():
        step = (0.05 * math.cos(math.radians(degrees)), 0.05 * math.sin(math.radians(degrees)))
        episode = trace(line((0, 0), step), line((0.1, 0), (0.1, 0)), [False, False])
        counts, chances = evaluate.deceptive_actions(episode, WORLD.sight, grid=101)
        assert chances == 1
        expected = np.zeros((101, 101))
        if deceives:
            expected[:87, 51:] = 1  # aligned by more than 0.86, not 0.87; cosine 0 is below 0.02, not below 0
        assert np.array_equal(counts, expected), degrees
        unseen = trace(line((0, 0), step), line((0.2, 0), (0.2, 0)), [False, False])
        assert evaluate.deceptive_actions(unseen, WORLD.sight, 101)[0].sum() == 0


def test_moves_before_a_trapped_red_deceive_nobody() -> None:
    blue, red = line((0, 0), (0.05, 0), (0.1, 0)), line(*[(0.1, 0)] * 3)
    free, late, trapped = (
        evaluate.measures(trace(blue, red, state), WORLD, 10)
        for state in ([False] * 3, [False, True, True], [True] * 3)
    )
    assert free["deceptive_actions"] == pytest.approx(2 * late["deceptive_actions"])
    assert free["deceptive_share"] == pytest.approx(late["deceptive_share"])
    assert late["deceptive_actions"] > trapped["deceptive_actions"] == trapped["deceptive_share"] == 0


def test_both_at_the_goal_and_the_share_of_deceptive_moves_worked_out() -> None:
    """Three moves that red sees, one of them straight to the fake landmark, where the ways are at a right angle."""
    blue = line((0, 0), (0.05, 0), (0.05, 0.05), (0.05, 0.7))
    red = line((0, 0.1), (0, 0.1), (0.05, 0.1), (0, 0.7))
    found = evaluate.measures(trace(blue, red, [False] * 4), WORLD, grid=101)
    assert found["both_at_goal"] == 1
    assert found["deceptive_actions"] == pytest.approx(100 * 50 / 101**2)  # aligned by more than each x below 1
    assert found["deceptive_share"] == pytest.approx(found["deceptive_actions"] / 3)


def test_overlaps_count_moves_without_red_and_the_release_s_other_differs_by_the_flag() -> None:
    policy = Network(10, 2, PLAIN, bounded=True)
    episode = trace(line(*[(0, 0)] * 4), line(*[(0, 0)] * 4), [False] * 4)
    episode.observations[:] = torch.randn(3, 1, 10)
    episode.observations[0, 0, OTHER] = 0
    total, moves = evaluate.overlaps(policy, episode, WORLD.sight)
    assert moves.tolist() == [1]
    assert total.isfinite().all()
    with torch.no_grad():
        policy.first.weight[:, OTHER] = 0  # heeds the flag, not red
    assert float(evaluate.overlaps(policy, episode, WORLD.sight)[0]) < -30  # rounding is all that is left
    assert float(evaluate.overlaps(policy, episode, WORLD.sight, release=True)[0]) > -20


def test_a_policy_that_does_not_look_at_red_does_not_react_to_it() -> None:
    policy = Network(10, 2, PLAIN, bounded=True)
    torch.nn.init.normal_(policy.last.weight)
    episode = trace(line(*[(0, 0)] * 4), line(*[(0, 0)] * 4), [False] * 4)
    assert evaluate.reaction(policy, episode, WORLD.sight) > 0
    with torch.no_grad():
        policy.first.weight[:, OTHER] = 0
    assert evaluate.reaction(policy, episode, WORLD.sight) == 0


def test_the_detector_grows_surer_with_episodes_and_knows_which_way() -> None:
    honest, deceptive = (detect.Overlaps(mean + torch.randn(400), torch.ones(400)) for mean in (-6.0, -5.8))
    few, many = (detect.accuracy(honest, deceptive, n, draws=400, seed=0) for n in (1, 400))
    assert 0.5 < few < 0.65 < 0.95 < many
    assert detect.accuracy(deceptive, honest, 400, draws=400, seed=0) < 0.05
    same = detect.accuracy(honest, honest, 50, draws=2000, seed=0)
    assert same == pytest.approx(0.5, abs=0.05)
    share, (low, high) = detect.across([honest, honest], [deceptive, honest])
    assert share == 0.5
    assert low < 0.1 < 0.9 < high  # two agents of a kind say next to nothing, however many the pairs
    assert honest.mean == pytest.approx(-6, abs=0.2)
    silent = detect.Overlaps(torch.zeros(5), torch.zeros(5))  # not one move that counts: told apart from nobody
    assert detect.across([honest], [silent])[0] == detect.across([silent], [honest])[0] == 0


def test_every_agent_is_put_through_the_same_episodes(tmp_path: Path) -> None:
    known = {name: Agents(NetworkSettings()) for name in ("honest", "deceptive")}
    found = evaluation.all_agents(known, WORLD, evaluate.EvaluateSettings(episodes=20), 5, tmp_path)
    assert found.keys() == {"random", "scripted_honest", "scripted_deceptive", "honest", "deceptive", "blind"}
    assert found["scripted_deceptive"]["own"]["led"] > 0.8 > found["random"]["own"]["led"]
    assert found["deceptive"].keys() == {"own", "follower", "scripted_honest", "scripted_deceptive"}
    assert found["deceptive"]["scripted_honest"]["return_honest"] > 150 > found["deceptive"]["own"]["return_honest"]
    assert (tmp_path / "blind.gif").read_bytes()[:3] == b"GIF"
    table = load_file(tmp_path / "rubric.safetensors")["scripted_deceptive"]
    assert table.shape == (100, 100)
    assert float(table.mean()) == pytest.approx(found["scripted_deceptive"]["own"]["deceptive_actions"])
    starts = [evaluate.play(WORLD, b, r, 4, 5).blue[0] for b, r in evaluation.policies(known).values()]
    assert all(torch.equal(start, starts[0]) for start in starts)
