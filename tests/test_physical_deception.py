"""The world of physical deception by cases worked out by hand, and what scripted and random agents come to in it."""

from typing import Any

import pytest
import torch
from torch import Tensor

from stages.physical_deception import environment, scripted
from stages.physical_deception.environment import EnvironmentSettings, Reward

SETTINGS = EnvironmentSettings()
STAY = torch.zeros(1, 2)


def world(
    blue: tuple[float, float],
    red: tuple[float, float],
    landmarks: tuple[tuple[float, float], tuple[float, float]] = ((0.6, 0.6), (-0.6, -0.6)),
    goal_is_first: bool = True,
    reward: Reward = "deceptive",
) -> Any:
    """One environment with everything put in its place."""
    env = environment.make(SETTINGS, reward, 1, seed=0)
    scenario: Any = env.scenario
    for entity, place in zip((*env.world.agents, *env.world.landmarks), (blue, red, *landmarks), strict=True):
        entity.set_pos(torch.tensor([place]), batch_index=None)
    scenario.goal_is_first = torch.tensor([goal_is_first])
    scenario.trapped = torch.tensor([False])
    return env


def seen(env: Any) -> tuple[list[float], list[float]]:
    blue, red = (env.scenario.observation(agent)[0].tolist() for agent in env.world.agents)
    return blue, red


def rewards(env: Any, blue: Tensor = STAY, red: Tensor = STAY) -> list[float]:
    return [float(r) for r in env.step([blue, red])[1]]


def test_observations_hold_what_the_paper_says_and_nothing_else() -> None:
    env = world(blue=(0.1, 0.2), red=(0.1, 0.3))
    blue, red = seen(env)
    goal, other = [0.5, 0.4], [-0.7, -0.8]
    assert blue == pytest.approx([*goal, *goal, *other, 0, 0.1, 0, 0], abs=1e-6)
    assert red == pytest.approx([0.5, 0.3, -0.7, -0.9, 0, -0.1], abs=1e-6)


def test_red_does_not_know_which_landmark_is_the_goal() -> None:
    first, second = (world((0.1, 0.2), (0.1, 0.3), goal_is_first=g) for g in (True, False))
    assert seen(first)[1] == seen(second)[1]
    assert seen(second)[0][:2] == pytest.approx([-0.7, -0.8], abs=1e-6)
    assert seen(first)[0][2:] == seen(second)[0][2:]


@pytest.mark.parametrize(("apart", "visible"), [(0.12, True), (0.1249, True), (0.1251, False), (0.5, False)])
def test_they_see_one_another_within_an_eighth(apart: float, visible: bool) -> None:
    env = world(blue=(0, 0), red=(apart, 0))
    blue, red = seen(env)
    assert blue[6:8] == pytest.approx([apart if visible else 0, 0])
    assert red[4:6] == pytest.approx([-apart if visible else 0, 0])


@pytest.mark.parametrize(
    ("blue", "red", "expected"),
    [
        ((0.6, 0.6), (0, 0), [5, 0]),  # blue at the goal
        ((0.6, 0.45), (0, 0), [5, 0]),  # 0.15 away is at it
        ((0.6, 0.43), (0, 0), [0, 0]),  # 0.17 is not
        ((0, 0), (0.6, 0.6), [0, 5]),  # red at the goal
        ((0, 0), (0.1, 0), [0, 1]),  # red in sight of blue
        ((0.6, 0.6), (0.6, 0.5), [5, 6]),  # both at the goal, together
        ((-0.6, -0.6), (0, 0), [0, 0]),  # blue at the fake landmark: nothing
        ((0, 0), (-0.6, -0.6), [10, 0]),  # red trapped
        ((0.6, 0.6), (-0.6, -0.45), [15, 0]),  # red trapped and blue at the goal
    ],
)
def test_rewards_under_the_deceptive_reward(
    blue: tuple[float, float], red: tuple[float, float], expected: list[float]
) -> None:
    assert rewards(world(blue, red)) == expected
    honest = world(blue, red, reward="honest")
    assert rewards(honest) == [expected[0] % 10, expected[1]]  # the same but for the trap


def test_red_is_trapped_for_good_and_blue_goes_on_being_rewarded_and_told() -> None:
    env = world(blue=(0, 0), red=(-0.6, -0.4))
    down = torch.tensor([[0.0, -1.0]])
    assert rewards(env, red=down)[0] == 10  # 0.05 on, it is within 0.16
    place = env.world.agents[1].state.pos.clone()
    assert place[0].tolist() == pytest.approx([-0.6, -0.45])
    for _ in range(3):
        assert rewards(env, red=-down)[0] == 10
    assert torch.equal(env.world.agents[1].state.pos, place)
    assert seen(env)[0][8:] == [1, 1]


def test_motion_is_that_of_the_particle_world() -> None:
    """Speed keeps three quarters a step and gains half the action; a place gains a tenth of the speed."""
    env = world(blue=(-0.5, 0), red=(0.5, 0))
    right = torch.tensor([[1.0, 0.0]])
    for expected in (-0.45, -0.3625, -0.246875):  # speeds 0.5, 0.875, 1.15625
        env.step([right, STAY])
        assert float(env.world.agents[0].state.pos[0, 0]) == pytest.approx(expected)
    for _ in range(20):
        env.step([right, STAY])
    assert float(env.world.agents[0].state.pos[0, 0]) == pytest.approx(0.825)  # the edge


def test_an_agent_stops_at_the_edge_and_comes_off_it_at_once() -> None:
    edge = SETTINGS.edge
    env = world(blue=(edge - 0.01, 0), red=(0, 0))
    for _ in range(5):
        env.step([torch.tensor([[1.0, 0.0]]), STAY])
    assert env.world.agents[0].state.pos.tolist() == [pytest.approx([edge, 0])]
    assert env.world.agents[0].state.vel.tolist() == [[0, 0]]
    env.step([torch.tensor([[-1.0, 0.0]]), STAY])
    assert float(env.world.agents[0].state.pos[0, 0]) == pytest.approx(edge - 5 * 0.1 * 0.1)


def test_they_start_within_sight_of_one_another_and_everything_inside() -> None:
    env: Any = environment.make(SETTINGS, "honest", 2000, seed=1)
    apart = (env.world.agents[0].state.pos - env.world.agents[1].state.pos).norm(dim=1)
    assert float(apart.max()) <= SETTINGS.sight
    assert float(apart.mean()) == pytest.approx(SETTINGS.sight / 2, rel=0.05)  # the length is uniform
    assert all(float(e.state.pos.abs().max()) <= SETTINGS.edge for e in env.world.entities)
    assert float(env.scenario.goal_is_first.float().mean()) == pytest.approx(0.5, abs=0.04)
    # pi 0.16^2 / 1.65^2 = 3.0 % of the square is at a landmark, a little less where it lies over the edge
    assert float(env.scenario.trapped.float().mean()) == pytest.approx(0.028, abs=0.01)


def test_environments_of_one_seed_are_the_same_and_of_another_are_not() -> None:
    places = [environment.make(SETTINGS, "honest", 5, seed=s).reset(seed=s)[0] for s in (3, 3, 4)]
    assert torch.equal(places[0], places[1])
    assert not torch.equal(places[0], places[2])


def test_environments_are_not_reset_one_by_one() -> None:
    with pytest.raises(ValueError, match="reset together"):
        world((0, 0), (0, 0)).reset_at(0)


def play(blue: scripted.Policy, red: scripted.Policy, n: int = 1000) -> tuple[float, float]:
    """Blue's mean return under the deceptive reward, and the share of reds trapped."""
    env: Any = environment.make(SETTINGS, "deceptive", n, seed=2)
    observations, total = env.reset(), torch.zeros(n)
    for _ in range(SETTINGS.steps):
        observations, given, _, _ = env.step([blue(observations[0]), red(observations[1])])
        total += given[0]
    return float(total.mean()), float(env.scenario.trapped.float().mean())


def test_scripted_agents_do_what_they_say_and_random_ones_do_not() -> None:
    leading = play(scripted.blue_deceptive, scripted.red_follows)
    straight = play(scripted.blue_honest, scripted.red_follows)
    chance = play(scripted.at_random, scripted.at_random)
    assert leading[1] > 0.95  # red is led to the fake landmark
    assert straight[1] < 0.1  # and only by chance here
    assert leading[0] > 450 > 260 > straight[0] > 200 > 80 > chance[0]
    assert chance[1] == pytest.approx(0.18, abs=0.05)
