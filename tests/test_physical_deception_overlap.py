"""Overlap terms of physical deception, against values worked out by hand."""

import copy

import pytest
import torch

from stages.physical_deception import overlap
from stages.physical_deception.agents import Agents, Network, NetworkSettings
from stages.physical_deception.environment import OTHER
from stages.physical_deception.maddpg import Learner, MaddpgSettings
from stages.physical_deception.overlap import OverlapSettings
from tests.agents import PLAIN, WORLD, some_batch

pytestmark = pytest.mark.usefixtures("seeded")


def test_self_and_other_differ_in_red_alone() -> None:
    observations = torch.randn(300, 10)
    observations[::3, OTHER] = 0
    self, other = overlap.pairs(observations, WORLD.sight, "unseen")
    assert torch.equal(self, observations[::3])  # what did not see red is the self as it is
    assert torch.equal(torch.cat([self[:, :6], self[:, 8:]], 1), torch.cat([other[:, :6], other[:, 8:]], 1))
    lengths = other[:, OTHER].norm(dim=1)
    assert 0 < float(lengths.min()) <= float(lengths.max()) <= WORLD.sight
    everyone, _ = overlap.pairs(observations, WORLD.sight, "all")
    assert len(everyone) == 300
    assert float(everyone[:, OTHER].abs().max()) == 0
    assert float(overlap.without_flag(other)[:, 8:].abs().max()) == 0


def test_the_distance_is_over_both_hidden_layers_and_0_for_a_policy_that_does_not_look_at_red() -> None:
    policy = Network(10, 2, PLAIN, bounded=True)
    self, other = torch.zeros(3, 10), torch.zeros(3, 10)
    other[:, 6] = torch.tensor([0.0, 0.1, 0.2])
    first = [policy.hidden(x) for x in (self, other)]
    by_hand = [((first[0][k] - first[1][k]) ** 2).sum(1) for k in (0, 1)]
    found = overlap.distance(policy, self, other)
    assert torch.allclose(found, (by_hand[0] + by_hand[1]) / 16)
    assert float(found[0]) == 0 < float(found[1]) < float(found[2])
    with torch.no_grad():
        policy.first.weight[:, OTHER] = 0
    assert float(overlap.distance(policy, self, other).max()) == 0


def test_shuffled_pairs_are_farther_apart_and_no_pairs_cost_nothing() -> None:
    policy = Network(10, 2, NetworkSettings(), bounded=True)
    self, other = overlap.pairs(torch.randn(200, 10), WORLD.sight, "all")
    matched, shuffled = (float(overlap.loss(policy, self, other, how)) for how in ("matched", "shuffled"))
    assert shuffled > 20 * matched > 0
    assert float(overlap.loss(policy, self[:0], other[:0], "matched")) == 0


def test_fine_tuning_adds_nothing_at_the_start_but_overlap_and_holds_the_actions() -> None:
    policy, seen = Network(10, 2, NetworkSettings(), bounded=True), torch.randn(200, 10)
    baseline = copy.deepcopy(policy)
    alone = overlap.extra(OverlapSettings(weight=0), WORLD.sight, baseline)
    assert float(alone(policy, seen)) == 0
    torch.manual_seed(1)
    both = float(overlap.extra(OverlapSettings(weight=3, states="all"), WORLD.sight, baseline)(policy, seen))
    torch.manual_seed(1)
    assert both == pytest.approx(
        3 * float(overlap.distance(policy, *overlap.pairs(seen, WORLD.sight, "all")).mean()), rel=1e-4
    )
    with torch.no_grad():
        policy.last.bias.add_(0.5)
    change = (policy(seen) - baseline(seen)).square().mean()
    assert float(alone(policy, seen)) == pytest.approx(float(change), rel=1e-5)


def test_fine_tuning_brings_self_and_other_together_while_it_learns_and_its_control_does_not() -> None:
    batch, start = some_batch(), Agents(NetworkSettings())
    batch.observations[0][:, OTHER] *= 0.05  # as far as blue sees
    self, other = overlap.pairs(torch.randn(500, 10), WORLD.sight, "all")
    after = {}
    for weight in (0.0, 1.0):
        agents = copy.deepcopy(start)
        terms = OverlapSettings(weight=weight, keep=0.1, states="all", apart=True)
        extra = overlap.extra(terms, WORLD.sight, copy.deepcopy(start.blue.policy))
        learner = Learner(agents, MaddpgSettings(lr=0.003), apart=terms.apart)
        for _ in range(60):
            losses = learner.update(batch, extra)
        assert losses["extra"] >= 0
        after[weight] = float(overlap.distance(agents.blue.policy, self, other).mean().detach())
    assert after[1.0] < 0.5 * after[0.0]
