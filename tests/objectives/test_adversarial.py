from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from jsonargparse import auto_cli
from torch import nn
from torch.nn.functional import cross_entropy, softplus

from lightning_sq.attacks import PGD, TakenApart
from lightning_sq.errors import InputError
from lightning_sq.layers import SoftQuantization
from lightning_sq.models import PixelClassifier
from lightning_sq.objectives import Natural, Objective
from lightning_sq.objectives.adversarial import FGSMRS, Adversarial
from lightning_sq.objectives.free import FreeAdversarial
from lightning_sq.ops.linf_ball import distance, project

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(24, 3, 6, 6, generator=GENERATOR)
LABELS = torch.arange(24) % 2
OBJECTIVES = [Adversarial, FGSMRS, FreeAdversarial]
WITH_A_START = [Adversarial, FGSMRS]


def classifier(quantizer: SoftQuantization | None = None, *, kind: str = "linear") -> PixelClassifier:
    torch.manual_seed(0)
    parts = {} if quantizer is None else {"quantize": quantizer}
    if kind == "linear":
        parts["backbone"] = nn.Sequential(nn.Flatten(), nn.Linear(108, 2))
    else:
        parts["backbone"] = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 2)
        )
    return PixelClassifier(OrderedDict(parts))


def record(model: PixelClassifier) -> list[torch.Tensor]:
    """What the model itself is called with, from now on; calls of the same weights in a BPDA wrapping do not count."""
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    return seen


def seeded(objective: Objective, seed: int = 0, rank: int = 0) -> Objective:
    objective.seed(seed, rank)
    return objective


def worse_direction(model: PixelClassifier, labels: torch.Tensor = LABELS) -> torch.Tensor:
    """sign(w_other - w_own), shaped like the images: where every pixel of a linear two-class model is pushed."""
    weight = model.backbone[1].weight.detach()
    return (weight[1 - labels] - weight[labels]).sign().view_as(IMAGES)


def grad(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("criterion", ["cross_entropy", "margin"])
@pytest.mark.parametrize("epsilon", [0.02, 0.2, 0.7])
def test_pgd_training_finds_the_closed_form_optimum_of_a_linear_model(criterion, epsilon):
    model = classifier()
    loss, logits = seeded(Adversarial(epsilon, criterion=criterion))(model, IMAGES, LABELS)
    best = (IMAGES + epsilon * worse_direction(model)).clamp(0, 1)
    assert loss.item() == pytest.approx(cross_entropy(model(best), LABELS).item(), rel=1e-5)
    assert torch.allclose(logits, model(best), atol=1e-5)


def test_the_adversarial_loss_of_a_linear_model_by_hand():
    # away from the box the attack adds eps ||w_other - w_own||_1 to the losing margin m, and CE = softplus(m)
    model, inner = classifier(), 0.25 + 0.5 * IMAGES
    loss, _ = seeded(Adversarial("8/255"))(model, inner, LABELS)
    logits, weight = model(inner), model.backbone[1].weight
    rows = torch.arange(24)
    margin = logits[rows, 1 - LABELS] - logits[rows, LABELS] + 8 / 255 * (weight[0] - weight[1]).abs().sum()
    assert loss.item() == pytest.approx(softplus(margin).mean().item(), rel=1e-5)


def test_fgsm_rs_is_one_step_of_1_25_epsilon_from_the_random_start():
    model, objective = classifier(), seeded(FGSMRS(0.1), 4)
    found = objective.attack(model, IMAGES, LABELS)
    start = IMAGES + seeded(FGSMRS(0.1), 4).start.draw(IMAGES)
    assert torch.equal(found, project(start + 0.125 * worse_direction(model), IMAGES, 0.1))
    assert distance(start, IMAGES).max() <= 0.1 + 1e-6
    assert (start != IMAGES).float().mean() > 0.9


def test_fgsm_rs_leaves_black_pixels_their_random_start():
    model, objective = classifier(), seeded(FGSMRS(0.1), 4)
    black = torch.zeros_like(IMAGES)
    found = objective.attack(model, black, LABELS)
    raised = found[found > 0]
    # uniform in (-0.1, 0.1) and 0.125 up, at most 0.1: 3 in 8 stay below; clipped to 0 before the step, none would
    assert (raised < 0.1 - 1e-6).float().mean().item() == pytest.approx(3 / 8, abs=0.05)


@pytest.mark.parametrize("cls", OBJECTIVES)
def test_epsilon_0_is_natural_training(cls):
    model = classifier()
    loss, logits = seeded(cls(0, label_smoothing=0.1))(model, IMAGES, LABELS)
    natural, natural_logits = Natural(label_smoothing=0.1)(model, IMAGES, LABELS)
    assert torch.equal(loss, natural)
    assert torch.equal(logits, natural_logits)


@pytest.mark.parametrize("quantizer", [None, SoftQuantization(4, 30.0)], ids=["plain", "quantized"])
@pytest.mark.parametrize("epsilon", [0.03, 0.6])
@pytest.mark.parametrize("cls", OBJECTIVES)
def test_whatever_the_model_sees_is_in_the_ball_and_in_the_box(cls, epsilon, quantizer):
    model = classifier(quantizer, kind="convolution")
    seen, objective = record(model), seeded(cls(epsilon))
    for _ in range(3):
        objective(model, IMAGES, LABELS)[0].backward()
    assert len(seen) == {Adversarial: 33, FGSMRS: 6, FreeAdversarial: 3}[cls]
    trained_on = seen if cls is not FGSMRS else seen[1::2]  # its start is not clipped, what it trains on is
    for x in seen:
        assert distance(x, IMAGES).max() <= epsilon + 1e-6
    for x in trained_on:
        assert x.min() >= 0
        assert x.max() <= 1
    assert distance(seen[-1], IMAGES).min() > 0.9 * epsilon


@pytest.mark.parametrize("cls", WITH_A_START)
def test_the_attack_leaves_the_parameters_grads_the_images_and_the_mode_alone(cls):
    model, images = classifier(kind="convolution"), IMAGES.clone()
    model(images).sum().backward()
    before = grad(model)
    with torch.no_grad():  # it asks for gradients itself
        found = seeded(cls(0.1)).attack(model, images, LABELS)
    assert not found.requires_grad
    assert torch.equal(grad(model), before)
    assert torch.equal(images, IMAGES)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("cls", WITH_A_START)
def test_the_weights_gradient_is_that_of_the_loss_at_the_adversarial_images_alone(cls):
    model = classifier(kind="convolution")
    seeded(cls(0.1))(model, IMAGES, LABELS)[0].backward()
    ours = grad(model)
    model.zero_grad()
    found = seeded(cls(0.1)).attack(model, IMAGES, LABELS)
    cross_entropy(model(found), LABELS).backward()
    assert torch.equal(ours, grad(model))


@pytest.mark.parametrize("cls", WITH_A_START)
def test_running_statistics_see_the_trained_images_alone_and_the_attack_goes_by_the_batch(cls):
    model, seen = classifier(kind="convolution"), []
    model.backbone[1].register_forward_hook(lambda _, inputs, output: seen.append(output))
    adversarial = seeded(cls(0.1)).attack(model, IMAGES, LABELS)
    assert model.backbone[1].num_batches_tracked == 0
    assert all(y.mean((0, 2, 3)).abs().max() < 1e-5 for y in seen)  # normalised by the batch
    seeded(cls(0.1))(model, IMAGES, LABELS)
    other = classifier(kind="convolution")
    other(adversarial)
    for ours, expected in zip(model.buffers(), other.buffers(), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("cls", WITH_A_START)
def test_the_random_start_is_seeded_by_rank_and_resumes(cls):
    model = classifier()

    def attack(objective: Adversarial) -> torch.Tensor:
        return objective.attack(model, IMAGES, LABELS)

    first = seeded(cls(0.1, step_size=0.01), 1, 0)
    assert first.random_state is None
    one = attack(first)
    assert torch.equal(one, attack(seeded(cls(0.1, step_size=0.01), 1, 0)))
    assert not torch.equal(one, attack(seeded(cls(0.1, step_size=0.01), 1, 1)))
    state = first.random_state.clone()
    two = attack(first)
    assert not torch.equal(one, two)
    resumed = seeded(cls(0.1, step_size=0.01), 99, 0)
    resumed.random_state = state
    assert torch.equal(attack(resumed), two)


@pytest.mark.parametrize("cls", WITH_A_START)
def test_behind_a_hard_quantizer_only_bpda_attacks(cls):
    model = classifier(SoftQuantization(8, hard=True))
    start = seeded(cls(0.2)).start(IMAGES)
    assert torch.equal(seeded(cls(0.2)).attack(model, IMAGES, LABELS), start)  # its gradient is 0
    exact, _ = seeded(cls(0.2))(model, IMAGES, LABELS)
    for backward, sharpness in (("identity", None), ("surrogate", 5.0)):
        seen = record(model)
        through, _ = seeded(cls(0.2, backward=backward, surrogate_sharpness=sharpness))(model, IMAGES, LABELS)
        assert through > exact + 0.1
        assert len(seen) == 1  # the true model, on what the attack found
        assert distance(seen[0], IMAGES).max() <= 0.2 + 1e-6
    assert model.quantizer.backward_mode == "exact"


def test_free_training_moves_delta_by_epsilon_along_the_gradients_sign():
    model, objective = classifier(), FreeAdversarial(0.1)
    sign, seen = worse_direction(model), record(model)
    labels = [LABELS, LABELS, 1 - LABELS, 1 - LABELS]  # up, held at the bound, back to 0, down
    steps = [0.0, 1.0, 1.0, 0.0, -1.0]
    for step, target in zip(steps, labels, strict=False):
        loss, _ = objective(model, IMAGES, target)
        assert torch.allclose(seen[-1], (IMAGES + step * 0.1 * sign).clamp(0, 1))
        assert loss.item() == pytest.approx(cross_entropy(model(seen[-1]), target).item(), rel=1e-5)
        loss.backward()
    assert torch.allclose(objective.delta, -0.1 * sign)


def test_free_training_takes_the_weights_gradient_from_the_same_pass():
    model, objective = classifier(kind="convolution"), FreeAdversarial(0.1)
    objective(model, IMAGES, LABELS)[0].backward()
    delta = objective.delta.clone()
    assert delta.abs().amax((1, 2, 3)).tolist() == pytest.approx([0.1] * 24)
    model.zero_grad()
    objective(model, IMAGES, LABELS)[0].backward()
    ours = grad(model)
    model.zero_grad()
    cross_entropy(model((IMAGES + delta).clamp(0, 1)), LABELS).backward()
    assert torch.equal(ours, grad(model))


@pytest.mark.parametrize("cls", WITH_A_START)
def test_labels_are_smoothed_in_the_trained_loss_alone(cls):
    model = classifier()
    model.backbone[1].weight.data.mul_(20)  # so sure that smoothing would turn gradients round
    hard, smoothed = seeded(cls(0.1)).attack(model, IMAGES, LABELS), cls(0.1, label_smoothing=0.3)
    assert torch.equal(seeded(smoothed).attack(model, IMAGES, LABELS), hard)
    loss, _ = seeded(smoothed)(model, IMAGES, LABELS)
    assert loss.item() == pytest.approx(cross_entropy(model(hard), LABELS, label_smoothing=0.3).item(), rel=1e-6)


def test_delta_is_carried_on_to_the_next_batch_and_starts_again_for_another_shape():
    model, objective = classifier(), FreeAdversarial(0.1)
    objective(model, IMAGES, LABELS)[0].backward()
    delta = objective.delta.clone()
    assert torch.equal(objective.perturb(IMAGES.flip(0)), (IMAGES.flip(0) + delta).clamp(0, 1))
    assert torch.equal(objective.perturb(IMAGES[:5]), IMAGES[:5])
    assert objective.delta.shape == (5, 3, 6, 6)
    assert objective.random_state is None
    assert set(objective.state_dict()) == {"step"}


def test_a_gradient_that_is_not_a_number_does_not_stay_in_delta():
    objective = FreeAdversarial(0.1)
    (objective.perturb(IMAGES) * float("nan")).sum().backward()
    assert not objective.delta.any()


def test_free_training_behind_a_hard_quantizer_moves_delta_by_bpda_alone_and_trains_the_weights_alike():
    gradients = []
    for backward in ("exact", "identity"):
        model, objective = classifier(SoftQuantization(8, hard=True)), FreeAdversarial(0.1, backward)
        objective(model, IMAGES, LABELS)[0].backward()
        gradients.append(grad(model))
        expected = 0.1 * worse_direction(model) if backward == "identity" else torch.zeros_like(IMAGES)
        assert torch.allclose(objective.delta, expected)
    assert torch.equal(*gradients)


def test_free_training_refuses_to_train_a_quantizer_by_a_foreign_derivative():
    model = classifier(SoftQuantization(4, learnable_sharpness=True))
    with pytest.raises(InputError, match="backward=identity"):
        FreeAdversarial(0.1, "identity")(model, IMAGES, LABELS)
    for objective in (FreeAdversarial(0.1), Adversarial(0.1, backward="identity")):
        objective(model, IMAGES, LABELS)[0].backward()
        assert model.quantizer.log_sharpness.grad.abs() > 0
        model.zero_grad()


@pytest.mark.parametrize("quantizer", [None, SoftQuantization(4, 30.0)], ids=["plain", "quantized"])
@pytest.mark.parametrize("cls", OBJECTIVES)
def test_training_lowers_the_loss_under_attack(cls, quantizer):
    model = classifier(quantizer, kind="convolution")
    objective = seeded(Adversarial(0.05, num_steps=3) if cls is Adversarial else cls(0.05))
    images = (IMAGES + 0.2 * (LABELS - 0.5).view(-1, 1, 1, 1)).clamp(0, 1)  # one class is brighter: it can be learned

    def under_attack() -> float:
        model.eval()
        found = PGD(num_steps=5)(model, images, LABELS, range(24), 0.05)
        model.train()
        with torch.no_grad():
            return cross_entropy(model(found), LABELS).item()

    before = under_attack()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(20):
        optimizer.zero_grad()
        objective(model, images, LABELS)[0].backward()
        optimizer.step()
    assert under_attack() < 0.9 * before


def chosen(objective: Objective) -> Objective:
    return objective


@pytest.mark.parametrize("cls", ["adversarial.Adversarial", "adversarial.FGSMRS", "free.FreeAdversarial"])
def test_a_recipe_can_name_it(cls):
    options = ["--objective.epsilon=51/255", "--objective.backward=identity"]
    objective = auto_cli(
        chosen, args=[f"--objective=lightning_sq.objectives.{cls}", *options], as_positional=False, exit_on_error=False
    )
    assert type(objective).__name__ == cls.split(".")[1]
    assert objective.epsilon == 0.2
    assert objective.backward_mode == "identity"
    assert not objective.adds_noise


def test_what_needs_the_model_does_not_perturb_without_it():
    with pytest.raises(AssertionError, match="Adversarial does not perturb"):
        Adversarial().perturb(IMAGES)


@pytest.mark.parametrize("cls", OBJECTIVES)
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"epsilon": 8}, "epsilon=8 "),
        ({"backward": "guess"}, "backward='guess'"),
        ({"backward": "surrogate", "surrogate_sharpness": 0.0}, "sharpness=0.0"),
        ({"surrogate_sharpness": 5.0}, "surrogate_sharpness=5.0"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
    ],
)
def test_an_attack_that_cannot_be_is_refused(cls, options, named):
    with pytest.raises(InputError, match=named):
        cls(**options)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_steps": 0}, "num_steps=0"),
        ({"criterion": "guess"}, "criterion='guess'"),
        ({"criterion": "dlr"}, "criterion='dlr' is not one of cross_entropy, margin"),
        ({"step_size": 2}, "step_size=2"),
        ({"step_size": 0}, "step_size=0 is not above 0"),
    ],
)
def test_a_pgd_that_cannot_be_is_refused(options, named):
    with pytest.raises(InputError, match=named):
        Adversarial(**options)


@pytest.mark.parametrize("criterion", ["cross_entropy", "margin"])
def test_in_half_precision_an_image_that_is_known_for_sure_is_attacked_too(criterion):
    """Its loss is some 1e-9, and float16 knows nothing between 0 and 6e-8."""
    model, objective = classifier(), seeded(Adversarial(0.1, num_steps=4, criterion=criterion))
    weight = model.backbone[1].weight
    weight.data.copy_(torch.stack([torch.ones(108), -torch.ones(108)]) * 0.2)
    labels = torch.zeros(24).long()
    whole = objective.attack(model, IMAGES, labels)
    with torch.autocast("cpu", torch.float16):
        assert cross_entropy(model(IMAGES).float(), labels) < 1e-6
        half = seeded(objective).attack(model, IMAGES, labels)
    assert torch.equal(half, whole)
    assert distance(half, (IMAGES - 0.1).clamp(0, 1)).max() < 1e-6


@pytest.mark.parametrize("objective", [Adversarial, FGSMRS, FreeAdversarial])
def test_a_network_that_shows_no_quantizer_cannot_be_attacked_by_bpda(objective):
    network = nn.Sequential(nn.Flatten(), nn.Linear(108, 2))
    with pytest.raises(InputError, match="is a Sequential that shows no quantizer"):
        seeded(objective(backward="identity"))(network, IMAGES, torch.zeros(24).long())


@pytest.mark.parametrize("objective", [Adversarial, FGSMRS, FreeAdversarial])
def test_a_network_that_is_shown_behind_a_function_is_trained_through_bpda(objective):
    shown = TakenApart(lambda x: (x * 4).round() / 4, nn.Sequential(nn.Flatten(), nn.Linear(108, 2)))
    loss, _ = seeded(objective(0.1, backward="identity"))(shown, IMAGES, torch.zeros(24).long())
    loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in shown.network.parameters())


def test_the_default_steps_are_the_papers():
    assert Adversarial(0.1, num_steps=5).step_size == pytest.approx(0.05)
    assert FGSMRS(0.1).step_size == pytest.approx(0.125)
    assert FGSMRS(1.0).step_size == 1.25
    assert FGSMRS(0.1, "10/255").step_size == pytest.approx(10 / 255)


@pytest.mark.parametrize("cls", OBJECTIVES)
def test_the_ball_grows_over_the_ramp_in_training_alone_and_its_state_is_saved(cls):
    model, objective = classifier(), seeded(cls(0.2, ramp_steps=4))
    objective.eval()
    objective(model, IMAGES, LABELS)
    assert objective.step == 0
    objective.train()
    for step, expected in enumerate((0.05, 0.1, 0.15, 0.2, 0.2)):
        assert objective.step == step
        assert float(objective.share) * 0.2 == pytest.approx(expected)
        seen = record(model)
        loss, _ = objective(model, IMAGES, LABELS)
        moved = distance(seen[-1], IMAGES).max().item()
        assert moved <= expected + 1e-6
        loss.backward()
        model.zero_grad()
        if cls is not FreeAdversarial:  # what free trains on is what the steps before have found
            assert moved == pytest.approx(expected, rel=1e-4)
    resumed = cls(0.2, ramp_steps=4)
    resumed.load_state_dict(objective.state_dict())
    assert resumed.share == 1
    with pytest.raises(InputError, match="ramp_steps=-1 is negative"):
        cls(0.2, ramp_steps=-1)
