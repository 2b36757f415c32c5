from __future__ import annotations

import copy
import gc
import weakref
from collections import OrderedDict

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

import lightning_sq
from lightning_sq.attacks import PGD, fools, with_bpda
from lightning_sq.attacks.criteria import margin
from lightning_sq.errors import InputError
from lightning_sq.layers import Normalize, SoftQuantization
from lightning_sq.models import PixelClassifier
from lightning_sq.ops.interval import Interval, quantized_box, worst_case_logits
from lightning_sq.verification.interval_network import certified, interval_forward, interval_margins
from lightning_sq.verification.tracing import graph_of

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(4, 3, 32, 32, generator=GENERATOR)
EPSILON = 4 / 255


@pytest.fixture(autouse=True)
def _same_numbers():
    """Whatever other tests have drawn."""
    GENERATOR.manual_seed(0)


def small_cnn() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        SoftQuantization(4, 60.0),
        Normalize((0.5, 0.4, 0.3), (0.2, 0.2, 0.1)),
        nn.Conv2d(3, 8, 3, stride=2, padding=1, padding_mode="reflect"),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Dropout(0.5),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 16),
        nn.Hardtanh(),
        nn.Linear(16, 5),
    )


class Functional(nn.Module):
    """The same kind of network, written with functions and methods."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.scale = nn.Parameter(torch.rand(4, 1, 1, generator=GENERATOR))
        self.fc = nn.Linear(4 * 16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.conv(x))
        y = functional.avg_pool2d(x, 4) + self.scale
        x = functional.max_pool2d(x, 4)
        x += functional.dropout(y, 0.5, self.training)
        x = torch.cat([x[:, :2], torch.tanh(y)[:, 2:]], dim=1)
        x = functional.conv2d(x, self.conv.weight[:, [0, 1, 2, 0]], padding=1)
        x = torch.sigmoid(functional.adaptive_avg_pool2d(x, 4)).clamp(min=0.1)
        return functional.linear(x.view(x.size(0), -1), self.fc.weight, self.fc.bias).reshape(x.shape[0], 5)


def with_statistics(network: nn.Module) -> nn.Module:
    """Batch norm as after some training, with scales of either sign."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, -1.0, 1.0)
    return network.eval()


NETWORKS = {
    "small cnn": small_cnn,
    "functional": Functional,
    "one layer": lambda: nn.Conv2d(3, 2, 3),
    "test_resnet": lambda: timm.create_model("test_resnet", num_classes=5),
    "resnet18": lambda: timm.create_model("resnet18", num_classes=5),
    "BatchNormAct2d": lambda: timm.create_model("resnetv2_18", num_classes=5),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    torch.manual_seed(0)
    return with_statistics(NETWORKS[request.param]())


def test_no_point_of_the_box_leaves_the_bounds(network):
    box = quantized_box(IMAGES, EPSILON)
    with torch.no_grad():
        bounds = interval_forward(network, box)
        assert (bounds.upper > bounds.lower).any()
        for _ in range(5):
            share = torch.rand(IMAGES.shape, generator=GENERATOR)
            for point in (share, share.round()):  # inside, and at a corner
                value = network(box.lower + point * (box.upper - box.lower))
                assert (value >= bounds.lower - 1e-5).all()
                assert (value <= bounds.upper + 1e-5).all()


def test_a_box_without_width_gives_the_plain_logits(network):
    with torch.no_grad():
        bounds = interval_forward(network, Interval(IMAGES, IMAGES))
        value = network(IMAGES)
    assert torch.allclose(bounds.lower, value, atol=1e-5)
    assert torch.allclose(bounds.upper, value, atol=1e-5)


def test_a_larger_ball_has_bounds_around_those_of_a_smaller_one(network):
    with torch.no_grad():
        small, large = (interval_forward(network, quantized_box(IMAGES, e)) for e in (EPSILON / 4, EPSILON))
    slack = 1e-5 + 1e-6 * large.upper.abs()
    assert (large.lower <= small.lower + slack).all()
    assert (large.upper >= small.upper - slack).all()


def test_bounds_in_float32_are_within_the_stated_rounding_of_those_in_float64():
    network = with_statistics(timm.create_model("resnet18", num_classes=5))
    box = quantized_box(IMAGES, EPSILON)
    with torch.no_grad():
        bounds = interval_forward(network, box)
        exact = interval_forward(copy.deepcopy(network).double(), Interval(*(end.double() for end in box)))
    for end, exact_end in zip(bounds, exact, strict=True):
        assert (end - exact_end).abs().max() <= 1e-6 * exact_end.abs().max()


def test_margins_fold_in_the_last_layer_and_are_at_least_as_tight():
    network, labels = small_cnn().eval(), torch.arange(4)
    box = quantized_box(IMAGES, EPSILON)
    margins = interval_margins(network, box, labels)
    worst = worst_case_logits(interval_forward(network, box), labels)
    worst = worst - worst.gather(1, labels[:, None])
    assert (margins <= worst + 1e-6).all()
    assert (margins < worst - 1e-3).any()
    unfolded = interval_margins(nn.Sequential(network, nn.Identity()), box, labels)
    assert torch.allclose(unfolded, worst)


@pytest.mark.parametrize("make", [small_cnn, Functional])
def test_bounds_are_those_of_eval_mode_and_leave_the_network_as_it_was(make):
    network = make()
    network.train()
    next(iter(network.children())).eval()
    modes = [module.training for module in network.modules()]
    state = copy.deepcopy(network.state_dict())
    images = IMAGES.clone()
    bounds = interval_forward(network, Interval(images, images))
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())
    assert torch.equal(images, IMAGES)
    assert torch.allclose(bounds.lower, network.eval()(IMAGES), atol=1e-6)


class Shortcut(nn.Module):
    """Adds in place to what its shortcut still holds, so that the shortcut sees the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.fc = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Linear(3, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.one(x)
        shortcut = y
        y += self.other(x)
        return self.fc((y + shortcut).mean((2, 3)))


def test_a_sum_in_place_is_seen_by_whoever_holds_it():
    torch.manual_seed(0)
    network = Shortcut().eval()
    bounds = interval_forward(network, Interval(IMAGES, IMAGES))
    for end in (bounds.lower, bounds.upper):
        torch.testing.assert_close(end, network(IMAGES), rtol=1e-5, atol=1e-6)
    box = quantized_box(IMAGES, EPSILON)
    wider = interval_forward(network, box)
    inside = network(box.lower + (box.upper - box.lower) * torch.rand(IMAGES.shape))
    assert (wider.lower <= inside + 1e-5).all()
    assert (inside <= wider.upper + 1e-5).all()


@pytest.mark.parametrize("own", [lambda: torch.tensor(0.5), lambda: torch.randn(3, 1, 1)])
def test_a_forward_method_that_makes_tensors_has_no_bounds_and_is_attacked_all_the_same(own):
    class Makes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc((x + own()).mean((2, 3)))

    network = Makes().eval()
    with pytest.raises(InputError, match="Makes has no interval bounds"):
        interval_forward(network, quantized_box(IMAGES, EPSILON))
    labels = network(IMAGES).argmax(1)
    found = lightning_sq.evaluate(network, IMAGES, labels, epsilon=EPSILON, attacks="fgsm", checks=False)
    assert found.certified_accuracy is None


class HalfPrecision(nn.Module):
    """Rounds to bfloat16 by an autocast of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.fc(x)


@pytest.mark.parametrize(("margin", "sure"), [(1e-6, False), (1e-4, True)])
def test_what_rounding_alone_may_have_brought_below_zero_is_no_proof(margin, sure):
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    nn.init.zeros_(network[1].weight)
    network[1].bias.data.copy_(torch.tensor([1.0, 1.0 - margin, 0.0]))
    assert certified(network, torch.rand(5, 1, 2, 2), torch.zeros(5).long(), 0.1).all() == sure


def test_nothing_is_proven_of_a_network_that_switches_autocast_because_bounds_are_in_float32():
    network, epsilon = HalfPrecision().eval(), 0.001
    images = torch.rand(3000, 1, 2, 2, generator=GENERATOR)
    with torch.no_grad():
        network.fc[3].bias -= network.fc(images).mean(0)  # all classes are found
        labels = network(images).argmax(1)
        near = images + epsilon * (2 * torch.rand(200, 1, 1, 2, 2, generator=GENERATOR) - 1)
        broken = (network(near.clamp(0, 1).flatten(0, 1)).argmax(1).view(200, -1) != labels).any(0)
    assert (broken & certified(network.fc, images, labels, epsilon)).any()  # what was taken for a proof
    with pytest.raises(InputError, match="HalfPrecision has no interval bounds"):
        certified(network, images, labels, epsilon)
    found = lightning_sq.evaluate(network, images[:4], labels[:4], epsilon=epsilon, attacks="fgsm", checks=False)
    assert found.certified_accuracy is None


class AfterTheLastLayer(nn.Module):
    """Changes in place what its last layer gave."""

    def __init__(self, change: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.clip, self.shift = nn.Linear(3, 5), nn.Hardtanh(-0.1, 0.1, inplace=True), -torch.arange(5.0)
        self.change = change

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = y = self.fc(x.mean((2, 3)))
        if self.change == "clip":
            self.clip(y)
        else:
            y += self.shift
        return logits


@pytest.mark.parametrize("change", ["clip", "shift"])
def test_margins_are_not_those_of_a_last_layer_that_is_changed_in_place_afterwards(change):
    network, labels = AfterTheLastLayer(change).eval(), torch.tensor([4, 1, 2, 3])
    with torch.no_grad():
        logits = network(IMAGES)
        margins = interval_margins(network, Interval(IMAGES, IMAGES), labels)
    assert torch.allclose(margins, logits - logits.gather(1, labels[:, None]), atol=1e-6)


def test_an_in_place_first_layer_leaves_the_box_alone():
    box = Interval(IMAGES - 0.5, IMAGES - 0.4)
    kept = box.lower.clone()
    interval_forward(nn.Sequential(nn.ReLU(inplace=True)), box)
    assert torch.equal(box.lower, kept)


def test_a_network_is_traced_once_and_again_when_its_modules_change():
    network = nn.Sequential(nn.Linear(2, 2))
    box = Interval(torch.zeros(1, 2), torch.ones(1, 2))
    interval_forward(network, box)
    graph = graph_of(network)
    with torch.no_grad():
        network[0].weight.copy_(torch.eye(2))
        network[0].bias.zero_()
    assert interval_forward(network, box).upper.tolist() == [[1.0, 1.0]]  # weights are shared
    assert graph_of(network) is graph
    network.append(nn.Hardtanh(0.0, 0.5))
    assert interval_forward(network, box).upper.tolist() == [[0.5, 0.5]]


class Defends(nn.Module):
    """Goes by a flag and by a number."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.defends, self.half = nn.Linear(3, 5), True, 0.0
        self.steps = nn.Hardtanh(0.0, 1.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.steps(x)
        return self.fc((torch.clamp(x, 0.5 - self.half, 0.5 + self.half) if self.defends else x).mean((2, 3)))


def test_a_network_is_traced_again_when_a_flag_or_a_number_changes_that_it_goes_by():
    network, labels = Defends().eval(), torch.zeros(4).long()
    labels[:] = network(IMAGES).argmax(1)
    assert certified(network, IMAGES, labels, 1.0).all()  # every image is grey to it
    graph = graph_of(network)
    network.steps.max_val = 0.9  # a leaf's own, which is read at each use
    assert graph_of(network) is graph
    for name, value in (("half", 0.5), ("defends", False)):
        setattr(network, name, value)
        assert not certified(network, IMAGES, labels, 1.0).any()
        network.half, network.defends = 0.0, True
        assert certified(network, IMAGES, labels, 1.0).all()


def test_the_cache_of_graphs_keeps_no_network_alive():
    network = small_cnn().eval()
    interval_forward(network, quantized_box(IMAGES, EPSILON))
    gone = weakref.ref(network)
    del network
    gc.collect()
    assert gone() is None


def test_bounds_are_computed_in_float32_under_autocast():
    network, box = small_cnn().eval(), quantized_box(IMAGES, EPSILON)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(IMAGES).dtype == torch.bfloat16
        bounds = interval_forward(network, box)
    assert torch.equal(bounds.upper, interval_forward(network, box).upper)


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


class Times(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x


class RandomInEval(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.dropout(x, 0.5, training=True)


def hooked() -> nn.Module:
    layer = nn.Linear(32, 2)
    layer.register_forward_hook(lambda module, args, output: -output)
    return layer


class Negated(nn.ReLU):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -super().forward(x)


Negated.__module__ = "torch.nn.elsewhere"  # torch.fx does not look into such


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (nn.GELU, "GELU"),
        (Times, "mul"),
        (lambda: nn.BatchNorm2d(3, track_running_stats=False), "BatchNorm2d without running statistics"),
        (RandomInEval, "dropout in eval mode"),
        (hooked, "Linear with forward hooks"),
        (Negated, "Negated"),
        (Branching, "Sequential has no interval bounds"),
        (lambda: timm.create_model("test_efficientnet"), "SiLU"),
    ],
)
def test_a_network_that_cannot_be_bounded_is_refused_in_one_sentence_that_says_what_can(make, name):
    network = nn.Sequential(OrderedDict(part=make()))
    with pytest.raises(InputError, match=f"{name}.*Use a network") as refused:
        interval_forward(network, Interval(IMAGES, IMAGES))
    assert "\n" not in str(refused.value)


def quantized_net(quantizer: SoftQuantization | None) -> PixelClassifier:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3))
    parts = OrderedDict(quantize=quantizer) if quantizer else OrderedDict()
    parts |= OrderedDict(normalize=Normalize((0.5,) * 3, (0.5,) * 3), backbone=backbone)
    return PixelClassifier(parts).eval()


@pytest.mark.parametrize("quantizer", [None, SoftQuantization(2, 30.0), SoftQuantization(2, hard=True)])
def test_certified_images_survive_every_attack(quantizer):
    model, epsilon = quantized_net(quantizer), 2 / 255
    images = torch.rand(200, 3, 6, 6, generator=GENERATOR)
    labels = model(images).argmax(1)
    labels[:20] = (labels[:20] + 1) % 3  # misclassified to begin with
    sure = certified(model, images, labels, epsilon)
    assert 0.1 < sure.float().mean() < 0.9
    assert not sure[:20].any()
    for attacked in (model, with_bpda(model)):
        found = PGD(num_steps=20, criterion="margin")(attacked, images, labels, list(range(200)), epsilon)
        assert not fools(model, found, images, labels, epsilon=epsilon)[sure].any()
    for _ in range(20):
        signs = torch.randint(0, 2, images.shape, generator=GENERATOR) * 2 - 1
        corner = (images + epsilon * signs).clamp(0, 1)
        assert (margin(model(corner), labels)[sure] < 0).all()


def test_fewer_images_are_certified_in_a_larger_ball_and_in_none_the_correct_ones():
    model = quantized_net(SoftQuantization(2, 30.0))
    images = torch.rand(100, 3, 6, 6, generator=GENERATOR)
    labels = torch.arange(100) % 3
    shares = [certified(model, images, labels, epsilon).sum().item() for epsilon in (0, 1 / 255, 4 / 255, 1)]
    assert shares[0] == (model(images).argmax(1) == labels).sum()
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == 0
