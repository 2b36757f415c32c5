from __future__ import annotations

import math

import pytest
import torch

from lightning_sq.errors import InputError
from lightning_sq.objectives import Natural, NoisyNatural
from lightning_sq.objectives.base import Objective

IMAGES = torch.full((2, 3, 4, 4), 0.5)
LABELS = torch.tensor([0, 1])


def first_pixels(images: torch.Tensor) -> torch.Tensor:
    """Logits are the first two pixels."""
    return images.flatten(1)[:, :2]


def test_cross_entropy_by_hand():
    images = IMAGES.clone()
    images[:, 0, 0, 0] = 1.0  # logits (1, 0.5) for both; labels 0 and 1
    loss, logits = Natural()(first_pixels, images, LABELS)
    expected = (math.log(1 + math.exp(-0.5)) + math.log(1 + math.exp(0.5))) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert logits.tolist() == [[1.0, 0.5], [1.0, 0.5]]


def test_label_smoothing_by_hand():
    # smoothing s spreads s over both classes: (1 - s/2) CE(own) + s/2 CE(other)
    images = IMAGES.clone()
    images[:, 0, 0, 0] = 1.0
    loss, _ = Natural(label_smoothing=0.2)(first_pixels, images[:1], LABELS[:1])
    own, other = math.log(1 + math.exp(-0.5)), math.log(1 + math.exp(0.5))
    assert loss.item() == pytest.approx(0.9 * own + 0.1 * other, rel=1e-6)


def test_noisy_natural_trains_on_noisy_pixels_within_epsilon():
    seen = []
    objective = NoisyNatural("rademacher", "51/255")
    objective.seed(0, 0)
    objective(lambda x: seen.append(x) or first_pixels(x), IMAGES, LABELS)
    assert sorted(seen[0].unique().tolist()) == pytest.approx([0.3, 0.7])


def test_natural_leaves_the_pixels_alone_and_has_no_random_state():
    assert torch.equal(Natural().perturb(IMAGES), IMAGES)
    assert Natural().random_state is None
    assert not Natural.adds_noise


def test_an_objective_that_adds_noise_has_to_add_the_same_again():
    with pytest.raises(InputError, match="Forgetful says adds_noise = True, and lacks perturb_repeatably"):

        class Forgetful(Objective):
            adds_noise = True


def test_bad_values_are_refused():
    with pytest.raises(InputError, match="epsilon=8 "):
        NoisyNatural(epsilon=8)
    with pytest.raises(InputError, match="label_smoothing"):
        Natural(label_smoothing=1.0)


class PixelNet(torch.nn.Module):
    """Logits are two pixels, and the calls are counted by mode."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[bool, bool]] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls.append((self.training, torch.is_grad_enabled()))
        return first_pixels(images) * 10


def test_the_hardest_draw_is_the_one_with_the_largest_loss_and_costs_forward_passes_only():
    objective, model = NoisyNatural("uniform", 0.3, num_draws=6, select="hardest"), PixelNet()
    objective.seed(0, 0)
    chosen = objective.hardest(model, IMAGES, LABELS)
    assert model.calls == [(True, False)] * 6  # forward passes without a gradient
    objective.seed(0, 0)
    draws = torch.stack([objective.perturb(IMAGES) for _ in range(6)])
    losses = torch.stack(
        [torch.nn.functional.cross_entropy(first_pixels(x) * 10, LABELS, reduction="none") for x in draws]
    )
    assert all(torch.equal(chosen[i], draws[losses[:, i].argmax(), i]) for i in range(2))


@pytest.mark.parametrize("select", ["mean", "hardest"])
def test_an_image_gets_another_pattern_with_every_draw(select):
    """At two scales: one cell, which leaves an image flat, and sixteen."""
    objective = NoisyNatural("rademacher", 0.25, "blocks", scales=(1, 4), num_draws=2, select=select)
    objective.seed(0, 0)
    grey, seen = torch.full((6, 1, 8, 8), 0.5), []

    def model(x):
        seen.append(x)
        return x.flatten(1)[:, :2]

    objective(model, grey, torch.zeros(6).long())
    is_flat = [(x.flatten(1) == x.flatten(1)[:, :1]).all(1).tolist() for x in seen[:2]]
    assert is_flat == [[True, False] * 3, [False, True] * 3]


def test_the_hardest_of_many_draws_costs_at_least_the_mean():
    losses = {}
    for select in ("mean", "hardest"):
        objective = NoisyNatural("uniform", 0.3, num_draws=8, select=select)
        objective.seed(1, 0)
        losses[select] = objective(PixelNet(), IMAGES, LABELS)[0].item()
    assert losses["hardest"] > losses["mean"]


def test_the_mean_over_draws_is_a_mean():
    objective = NoisyNatural("rademacher", 0.2, num_draws=3)
    objective.seed(2, 0)
    loss, _ = objective(first_pixels, IMAGES, LABELS)
    objective.seed(2, 0)
    singles = [objective.loss(first_pixels(objective.perturb(IMAGES)), LABELS).item() for _ in range(3)]
    assert loss.item() == pytest.approx(sum(singles) / 3)


class LinearNet(torch.nn.Module):
    """Two classes; the margin of class 1 over class 0 grows along `weights`."""

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.weights, self.asked = weights, []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.asked.append(images)
        score = (images * self.weights).sum((1, 2, 3))
        return torch.stack([-score, score], 1)


def test_refined_draws_come_nearer_to_the_corner_of_the_ball_than_as_many_more_draws():
    weights = torch.ones(1, 4, 4)
    weights[..., 2:] = -1  # neighbours agree, as in what is learned of images
    images = torch.full((64, 1, 4, 4), 0.5)
    labels = torch.arange(64) % 2
    towards = (1 - 2 * labels).view(-1, 1, 1, 1) * weights.sign()  # where the margin by which it is wrong grows
    agreement = {}
    for num_draws, num_refined in ((12, 0), (10, 2), (64, 1)):
        objective = NoisyNatural("rademacher", 0.25, num_draws=num_draws, select="hardest", num_refined=num_refined)
        objective.seed(0, 0)
        model = LinearNet(weights)
        noise = (objective.hardest(model, images, labels) - images) / 0.25
        assert len(model.asked) == num_draws + num_refined
        assert noise.abs().unique().tolist() == [1.0]
        agreement[num_draws] = (noise * towards).mean().item()
    assert agreement[12] < agreement[10] - 0.1
    assert agreement[64] == 1.0


def test_flips_come_nearer_to_the_corner_of_the_ball_than_as_many_refined_draws():
    weights = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(2))  # neighbours do not agree
    images = torch.full((64, 1, 8, 8), 0.5)
    labels = torch.arange(64) % 2
    towards = (1 - 2 * labels).view(-1, 1, 1, 1) * weights
    reached = {}
    for name, searched in (("refined", {"num_refined": 120}), ("flips", {"num_flips": 120})):
        objective = NoisyNatural("rademacher", 0.25, num_draws=4, select="hardest", **searched)
        objective.seed(0, 0)
        model = LinearNet(weights)
        noise = (objective.hardest(model, images, labels) - images) / 0.25
        assert len(model.asked) == 124
        assert noise.abs().unique().tolist() == [1.0]
        reached[name] = ((noise * towards).sum() / 64 / weights.abs().sum()).item()  # of the most that there is
    assert reached["flips"] > reached["refined"] + 0.1


def test_each_flip_has_a_pass_and_is_of_the_hardest_so_far():
    objective = NoisyNatural("rademacher", 0.25, num_draws=2, select="hardest", num_flips=4, halve_after=[1, 4])
    objective.seed(0, 0)
    images, labels = torch.full((8, 1, 4, 4), 0.5), torch.arange(8) % 2
    model = LinearNet(torch.linspace(-1, 1, 16).view(1, 4, 4))
    found = objective.hardest(model, images, labels)
    passes = model.asked.copy()
    assert [len(asked) for asked in passes] == [8, 4, 4, 4, 2, 2]
    places, hardest, largest = torch.arange(8), images.clone(), torch.full((8,), float("-inf"))
    for count, asked in enumerate(passes):
        if count in (1, 4):
            places = places[largest[places].topk(len(places) // 2, sorted=False).indices]
        if count >= 2:  # a flip: of the larger patches, then of the smaller
            changed = (asked != hardest[places]).flatten(1).sum(1)
            assert (changed > 0).all()
            assert (changed <= (9 if count < 4 else 4)).all()
        losses = torch.nn.functional.cross_entropy(model(asked), labels[places], reduction="none")
        harder = places[losses > largest[places]]
        hardest[harder] = asked[losses > largest[places]]
        largest[places] = largest[places].maximum(losses)
    assert torch.equal(found, hardest)


def test_draws_towards_other_images_are_as_near_to_them_as_the_noise_allows():
    objective = NoisyNatural("rademacher", 0.25, select="hardest", num_others=3)
    objective.seed(0, 0)
    images = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(1))
    model = LinearNet(torch.ones(1, 3, 3))
    objective.hardest(model, images, torch.tensor([0, 1, 0, 1]))
    _, *draws = model.asked  # the first is random noise
    assert len(draws) == 3
    for i in range(4):
        others = [other for j, other in enumerate(images) if j != i]
        nearest = sorted((images[i] + (other - images[i]).clamp(-0.25, 0.25)).sum().item() for other in others)
        assert sorted(draw[i].sum().item() for draw in draws) == pytest.approx(nearest)


def test_a_batch_of_one_image_has_no_others():
    objective = NoisyNatural("uniform", 0.25, select="hardest", num_others=3, num_refined=1)
    model = LinearNet(torch.ones(1, 2, 2))
    chosen = objective.hardest(model, IMAGES[:1, :1, :2, :2], LABELS[:1])
    assert len(model.asked) == 2
    assert chosen.isfinite().all()


def test_after_so_many_draws_only_the_harder_half_is_searched_on():
    objective = NoisyNatural(
        "uniform", 0.25, select="hardest", num_draws=2, num_others=3, num_refined=3, halve_after=[2, 5]
    )
    objective.seed(0, 0)
    images, labels = torch.rand(7, 1, 4, 4, generator=torch.Generator().manual_seed(1)), torch.arange(7) % 2
    model = LinearNet(torch.linspace(-1, 1, 16).view(1, 4, 4))
    found = objective.hardest(model, images, labels)
    assert [len(asked) for asked in model.asked] == [7, 7, 4, 4, 4, 6]  # the last two images three times at once
    *one_each, three_each = model.asked.copy()

    def losses(noisy: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model(noisy), labels[places], reduction="none")

    places, largest = torch.arange(7), torch.full((7,), float("-inf"))
    for count, asked in enumerate([*one_each, *three_each.split(2)]):
        if count in (2, 5):
            places = places[largest[places].topk((len(places) + 1) // 2, sorted=False).indices]
        assert ((asked - images[places]).abs() <= 0.25 + 1e-6).all()  # each is noise on the image that it is for
        largest[places] = largest[places].maximum(losses(asked))
    places = torch.arange(7)
    assert torch.equal(losses(found), largest)


@pytest.mark.parametrize("options", [{"num_draws": 4}, {"num_others": 2, "num_refined": 3, "num_flips": 2}])
def test_a_search_leaves_the_running_statistics_to_the_images_that_are_trained_on(options):
    norm = torch.nn.BatchNorm2d(3)
    model = torch.nn.Sequential(norm, torch.nn.Flatten(), torch.nn.Linear(48, 2))
    objective = NoisyNatural(epsilon=0.1, noise="rademacher", select="hardest", **options)
    objective.seed(0, 0)
    objective(model, IMAGES, LABELS)
    assert norm.num_batches_tracked == 1


def test_halving_leaves_batch_norm_the_two_images_that_it_needs():
    objective = NoisyNatural("uniform", 0.25, select="hardest", num_draws=4, halve_after=(1, 2, 3))
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3)).train()
    for batch, expected in ((5, [5, 3, 2, 2]), (2, [2, 2, 2, 2])):
        asked = []
        handle = network.register_forward_hook(lambda module, images, logits, asked=asked: asked.append(len(logits)))
        objective.hardest(network, torch.rand(batch, 1, 2, 2), torch.arange(batch) % 3)
        handle.remove()
        assert asked == expected


def test_draws_go_on_where_they_were_when_their_random_state_is_put_back():
    searched = {"select": "hardest", "num_others": 2, "num_refined": 2, "num_flips": 2, "halve_after": [2]}
    objective = NoisyNatural("rademacher", 0.25, **searched)
    objective.seed(0, 0)
    images, labels = torch.rand(6, 1, 4, 4), torch.arange(6) % 2
    model = LinearNet(torch.randn(1, 4, 4))
    objective.hardest(model, images, labels)
    state = objective.random_state
    expected = objective.hardest(model, images, labels)
    again = NoisyNatural("rademacher", 0.25, **searched)
    again.random_state = state
    assert torch.equal(again.hardest(model, images, labels), expected)


def test_refined_draws_where_the_margin_does_not_change_are_noise_still():
    objective = NoisyNatural("gaussian", 0.1, num_draws=2, select="hardest", num_refined=2)
    chosen = objective.hardest(LinearNet(torch.zeros(1, 2, 2)), IMAGES[:, :1, :2, :2], LABELS)
    assert chosen.isfinite().all()


@pytest.mark.parametrize(
    "options",
    [
        {"num_draws": 0},
        {"num_refined": 2},
        {"num_refined": 2, "select": "hardest"},
        {"num_others": 2},
        {"num_others": -1, "select": "hardest"},
        {"num_refined": -1, "select": "hardest"},
        {"num_flips": 2},
        {"num_flips": -1, "select": "hardest"},
        {"halve_after": [1]},
        {"halve_after": [0], "num_draws": 2, "select": "hardest"},
        {"halve_after": [2], "num_draws": 2, "select": "hardest"},
        {"select": "best"},
        {"pattern": "waves"},
        {"scales": [0]},
    ],
)
def test_draws_and_patterns_that_cannot_be_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        NoisyNatural(**options)


class LossAlone(Objective):
    def forward(self, model, images, labels):
        return torch.nn.functional.cross_entropy(model(images), labels)


class LossOfEach(Objective):
    def forward(self, model, images, labels):
        logits = model(images)
        return torch.nn.functional.cross_entropy(logits, labels, reduction="none"), logits


class LossAsNumber(Objective):
    def forward(self, model, images, labels):
        logits = model(images)
        return self.loss(logits, labels).item(), logits


class Nothing(Objective):
    """Neither perturb nor forward."""


@pytest.mark.parametrize(
    ("objective", "sentence"),
    [
        (LossAlone(), r"LossAlone gives a Tensor\. Let its forward give \(loss, logits\)"),
        (LossOfEach(), r"LossOfEach gives a tensor of shape \(\d+,\) as its loss"),
        (LossAsNumber(), r"LossAsNumber gives a float as its loss"),
        (Nothing(), r"Nothing has neither perturb nor forward\. Write perturb\(images\)"),
    ],
)
def test_an_objective_of_ones_own_is_told_what_it_is_to_give(objective, sentence):
    with pytest.raises(InputError, match=sentence):
        objective(first_pixels, IMAGES, LABELS)
