"""Learning in physical deception, against values worked out by hand."""

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stages.physical_deception import agents as agents_
from stages.physical_deception import environment, evaluate, maddpg, scripted, train
from stages.physical_deception.agents import SIZES, Agents, Network, NetworkSettings
from stages.physical_deception.environment import EnvironmentSettings
from stages.physical_deception.maddpg import Extra, Learner, MaddpgSettings
from stages.physical_deception.replay import Batch, Replay
from tests.agents import PLAIN, WORLD, some_batch

pytestmark = pytest.mark.usefixtures("seeded")


def constant(network: Network, value: float) -> None:
    """Let a network give one value, whatever it is shown."""
    torch.nn.init.zeros_(network.last.weight)
    torch.nn.init.constant_(network.last.bias, value)


def test_the_critic_learns_reward_plus_discounted_value_afterwards() -> None:
    agent, batch = Agents(PLAIN).red, some_batch()
    constant(agent.critic, 1.0)
    constant(agent.target_critic, 4.0)
    targets = [torch.zeros(64, 2)] * 2
    expected = ((1.0 - (batch.rewards[1] + 0.5 * 4.0)) ** 2).mean()
    loss = maddpg.critic_loss(agent, batch, 1, targets, gamma=0.5)
    assert float(loss.detach()) == pytest.approx(float(expected))


def test_a_policy_climbs_its_own_critic_and_moves_no_other_weight() -> None:
    agents, batch = Agents(PLAIN), some_batch()
    loss = maddpg.policy_loss(agents, batch, 0, penalty=0.0)
    loss.backward()
    assert all(p.grad is not None for p in agents.blue.policy.parameters())
    assert all(p.grad is None for p in agents.red.parameters())
    actions = [agent.policy(seen) for agent, seen in zip(agents.both, batch.observations, strict=True)]
    value = agents.blue.critic(torch.cat([*batch.observations, *actions], dim=1))
    assert loss.item() == pytest.approx(-value.mean().item(), rel=1e-5)
    large = maddpg.policy_loss(agents, batch, 0, penalty=2.0)
    assert (large - loss).item() == pytest.approx(2 * actions[0].atanh().square().mean().item(), rel=1e-3)


def test_a_critic_tells_an_action_from_the_same_with_something_added_or_times_something() -> None:
    """Normalised by its own batch it could not, and no policy would learn where to go or how fast."""
    agents, batch = Agents(NetworkSettings()), some_batch()
    agents.blue.critic.observe(torch.cat([*batch.observations, *batch.actions], dim=1))
    values = []
    for shift, scale in ((0.0, 1.0), (0.5, 1.0), (0.0, 3.0)):
        actions = [scale * batch.actions[0] + shift, batch.actions[1]]
        values.append(agents.blue.critic(torch.cat([*batch.observations, *actions], dim=1)).mean().item())
    assert values[0] != pytest.approx(values[1], rel=1e-3)
    assert values[0] != pytest.approx(values[2], rel=1e-3)


def test_inputs_are_normalised_by_what_was_observed_and_by_nothing_else() -> None:
    policy = Network(10, 2, NetworkSettings(), bounded=True)
    assert policy.norm
    for _ in range(200):
        policy.observe(3 + 2 * torch.randn(2000, 10))
    seen = torch.full((4, 10), 5.0)
    assert torch.allclose(policy.norm(seen), torch.ones(4, 10), atol=0.1)
    alone, among = policy(seen[:1]), policy(torch.cat([seen[:1], 100 * torch.randn(50, 10)]))[:1]
    assert torch.allclose(alone, among, atol=1e-6)


def test_a_policy_at_full_force_in_one_direction_finds_a_way_back() -> None:
    agents, batch = Agents(PLAIN), some_batch()
    constant(agents.blue.critic, 0.0)
    constant(agents.blue.policy, 12.0)
    learner = Learner(agents, MaddpgSettings(lr=0.1))
    for _ in range(150):
        learner.update(Batch(batch.observations, batch.actions, [torch.zeros(64)] * 2, batch.following))
    assert agents.blue.policy(batch.observations[0]).mean().item() < 0.99


def test_an_update_of_both_together_is_that_of_each_alone() -> None:
    """Blue's critic after a joint step, against Adam's first step worked out: each weight by the rate, against its sign."""
    agents, batch = Agents(PLAIN), some_batch()
    before = copy.deepcopy(agents)
    loss = maddpg.critic_loss(before.blue, batch, 0, maddpg.target_actions(before, batch), 0.95)
    gradients = torch.autograd.grad(loss, list(before.blue.critic.parameters()))
    Learner(agents, MaddpgSettings(lr=0.01)).update(batch)
    for old, new, gradient in zip(
        before.blue.critic.parameters(), agents.blue.critic.parameters(), gradients, strict=True
    ):
        assert torch.allclose(new, old - 0.01 * gradient.sign(), atol=2e-4)


def test_red_is_frozen_within_a_round_and_blue_is_not() -> None:
    agents, batch = Agents(NetworkSettings()), some_batch()
    before = copy.deepcopy(agents)
    losses = Learner(agents, MaddpgSettings(), red_learns=False).update(batch)
    assert losses.keys() == {"critic_blue", "policy_blue"}
    assert all(
        torch.equal(a, b)
        for a, b in zip(before.red.state_dict().values(), agents.red.state_dict().values(), strict=True)
    )
    assert not torch.equal(before.blue.policy.first.weight, agents.blue.policy.first.weight)


def test_a_red_that_follows_by_hand_does_so_wherever_its_actions_are_asked_for_and_is_kept(tmp_path: Path) -> None:
    settings, batch = NetworkSettings(red="follows"), some_batch()
    agents = Agents(settings)
    expected = scripted.red_follows(batch.following[1])
    assert torch.equal(agents.red.act(batch.following[1]), expected)
    assert torch.equal(maddpg.target_actions(agents, batch)[1], expected)
    assert Learner(agents, MaddpgSettings()).update(batch).keys() == {"critic_blue", "policy_blue"}
    agents_.save(agents, tmp_path / "agents.safetensors")
    assert torch.equal(agents_.load(settings, tmp_path / "agents.safetensors").red.act(batch.following[1]), expected)


def test_the_overlap_loss_shares_the_optimiser_of_the_return_as_released_or_has_its_own() -> None:
    """Both steps on the same Adam make two of blue's policy, one of red's; a step of its own leaves one each."""
    for apart, steps in ((False, 2), (True, 1)):
        agents, batch = Agents(PLAIN), some_batch()
        learner = Learner(agents, MaddpgSettings(), apart=apart)
        learner.update(batch, lambda policy, seen: policy(seen).square().mean())
        of = learner.of_policies.state
        assert int(of[agents.blue.policy.last.weight]["step"]) == steps
        assert int(of[agents.red.policy.last.weight]["step"]) == 1
        assert (learner.of_extra is learner.of_policies) is not apart


def test_in_demonstrations_blue_acts_by_hand_and_they_count_in_no_mean() -> None:
    settings = MaddpgSettings(parallel=20, batch=20, every=20)
    agents = Agents(NetworkSettings(red="follows"))
    env = environment.make(EnvironmentSettings(), "deceptive", 20, 0)
    live = train.Life(env, Learner(agents, settings), replay := Replay(1000), None, scripted.blue_deceptive)
    found = live.episodes(30, 0.5, shown=5)
    parts = replay.table[: len(replay)].split(replay.widths, dim=1)
    seen, did, rewards = (part.unflatten(0, (30, 20)) for part in (parts[0], parts[2], parts[4]))
    by_hand = scripted.blue_deceptive(seen.flatten(0, 1)).unflatten(0, (30, 20))
    assert torch.equal(did[:, :5], by_hand[:, :5])
    assert not torch.allclose(did[:, 5:], by_hand[:, 5:], atol=0.05)
    assert found["blue_return"] == pytest.approx(float(rewards[:, 5:].sum(0).mean()), rel=1e-5)
    assert found["trapped"] == float(env.scenario.trapped[5:].float().mean())


@pytest.mark.parametrize("reward", ["honest", "deceptive"])
def test_demonstrations_fade_out_and_fine_tuning_has_none(
    reward: environment.Reward, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[int] = []

    def watched(self: train.Life, steps: int, noise: float, shown_now: int = 0) -> dict[str, float]:
        assert self.by_hand is (scripted.blue_honest if reward == "honest" else scripted.blue_deceptive)
        shown.append(shown_now)
        return {"blue_return": 0.0, "trapped": 0.0}

    monkeypatch.setattr(train.Life, "episodes", watched)
    settings = train.TrainSettings(
        demonstrations=0.5, baseline_episodes=40, tuning_episodes=40, maddpg=MaddpgSettings(parallel=10)
    )
    train.baseline(settings, reward, 0, tmp_path, lambda _line: None)
    assert shown == [5, 4, 2, 1]
    train.tune(settings, tmp_path / "agents.safetensors", reward, 0, tmp_path, lambda _line: None)
    assert shown[4:] == [0, 0, 0, 0]


def test_only_agents_that_learn_explore_and_rewards_are_normalised_from_the_first_update() -> None:
    settings = MaddpgSettings(parallel=20, batch=20, every=20)
    agents = Agents(NetworkSettings(red="follows"))
    env = environment.make(EnvironmentSettings(), "deceptive", 20, 0)
    live = train.Life(env, Learner(agents, settings), replay := Replay(1000), None)
    live.episodes(10, 0.5)
    kept = replay.table[: len(replay)].split(replay.widths, dim=1)
    assert torch.equal(kept[3], agents.red.policy(kept[1]))
    assert not torch.allclose(kept[2], agents.blue.policy(kept[0]), atol=0.05)
    scales: list[Tensor] = []

    class Watched(Learner):
        def update(self, batch: Batch, extra: Extra | None = None) -> dict[str, float]:
            scales.append(again.scale[0].clone())
            return {}

    train.Life(env, Watched(agents, settings), again := Replay(1000), None).episodes(2, 0.5)
    first = again.table[:20].split(again.widths, dim=1)
    assert scales[0].tolist() == pytest.approx([float(first[4].mean()), float(first[5].mean())])
    assert float(scales[0][1]) > 0


def test_targets_follow_by_tau() -> None:
    agents = Agents(NetworkSettings())
    old = [p.clone() for p in agents.blue.target_critic.parameters()]
    Learner(agents, MaddpgSettings(tau=0.25)).update(some_batch())
    for before, target, source in zip(
        old, agents.blue.target_critic.parameters(), agents.blue.critic.parameters(), strict=True
    ):
        assert torch.allclose(target, before + 0.25 * (source - before), atol=1e-6)


def test_noise_is_the_process_it_says() -> None:
    noise = maddpg.Noise(20000)
    for _ in range(50):
        drawn = noise(0.3)
    assert float(drawn.std()) == pytest.approx(0.3 * 0.2 / math.sqrt(1 - 0.85**2), rel=0.02)
    assert float(noise(0.0).abs().max()) == 0


def test_the_ring_writes_over_the_oldest_and_normalises_rewards() -> None:
    replay = Replay(5)
    for number in range(4):
        value = torch.full((2, 1), float(number))
        seen = [value.expand(2, size) for size in SIZES]
        replay.add(seen, [value.expand(2, 2)] * 2, [value[:, 0], -value[:, 0]], seen)
    assert len(replay) == 5
    assert sorted(replay.table[:, 0].tolist()) == [1, 2, 2, 3, 3]  # 0, 0 and one 1 are gone
    replay.rescale()
    batch = replay.sample(4000)
    assert float(batch.rewards[0].mean()) == pytest.approx(0, abs=0.06)
    assert float(batch.rewards[1].std()) == pytest.approx(1 * math.sqrt(0.8), abs=0.06)
    assert {int(v) for v in batch.observations[1][:, 3]} == {1, 2, 3}
    assert torch.equal(batch.observations[0], batch.following[0])
    assert torch.allclose(batch.rewards[0], -batch.rewards[1], atol=1e-6)


QUICK = train.TrainSettings(
    environment=EnvironmentSettings(steps=10),
    maddpg=MaddpgSettings(parallel=20, batch=32, every=50),
    baseline_episodes=60,
    tuning_episodes=60,
)


def test_training_is_the_same_again_and_fine_tuning_goes_on_from_it(tmp_path: Path) -> None:
    lines: list[str] = []
    places = [tmp_path / name for name in ("a", "b", "soo", "frozen")]
    for place in places:
        place.mkdir()
    facts = train.baseline(QUICK, "deceptive", 3, places[0], lines.append)
    again = train.baseline(QUICK, "deceptive", 3, places[1], lines.append)
    assert {k: v for k, v in facts.items() if k != "seconds"} == {k: v for k, v in again.items() if k != "seconds"}
    first, second = (p / "agents.safetensors" for p in places[:2])
    assert first.read_bytes() == second.read_bytes()
    assert facts["episodes"] == 60
    assert facts["updates"] == 600 // 50
    tuned = train.tune(QUICK, first, "deceptive", 3, places[2], lines.append)
    assert tuned["extra"] > 0
    soo_bytes = (places[2] / "agents.safetensors").read_bytes()
    torch.rand(7)  # as if other stages had, or had not, been done in this process before
    train.tune(QUICK, first, "deceptive", 3, places[1], lines.append)
    assert (places[1] / "agents.safetensors").read_bytes() == soo_bytes
    train.tune(QUICK, first, "deceptive", 4, places[1], lines.append)
    assert (places[1] / "agents.safetensors").read_bytes() != soo_bytes
    still = QUICK.model_copy(update={"red_learns": False})
    train.tune(still, first, "deceptive", 3, places[3], lines.append)
    start, soo, frozen = (agents_.load(QUICK.network, p / "agents.safetensors") for p in (places[0], *places[2:]))
    assert not torch.equal(start.blue.policy.first.weight, soo.blue.policy.first.weight)
    assert not torch.equal(start.red.policy.first.weight, soo.red.policy.first.weight)
    assert torch.equal(start.red.policy.first.weight, frozen.red.policy.first.weight)
    assert "60/60 episodes" in lines[-1]


@pytest.mark.slow
def test_a_baseline_learns_to_go_to_the_goal(tmp_path: Path) -> None:
    """A twentieth of the paper's length is enough to do as well as by hand."""
    settings = train.TrainSettings(baseline_episodes=2000)
    train.baseline(settings, "honest", 0, tmp_path, lambda _line: None)
    agents = agents_.load(settings.network, tmp_path / "agents.safetensors")
    learned, chance, by_hand = (
        evaluate.measures(evaluate.play(WORLD, blue, red, 500, 7), WORLD, 10)["return_honest"]
        for blue, red in (
            (agents.blue.act, agents.red.act),
            (scripted.at_random, scripted.at_random),
            (scripted.blue_honest, scripted.red_follows),
        )
    )
    assert chance < 15
    assert learned > 0.9 * by_hand
