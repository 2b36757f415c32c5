from __future__ import annotations

import pytest
import torch
from torch import fx

from lightning_sq import SoftQuantization
from lightning_sq.errors import InputError
from lightning_sq.layers import Normalize, PixelNoise, UnitClamp
from lightning_sq.ops.soft_quantize import soft_quantize

IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def gradient(layer: torch.nn.Module) -> torch.Tensor:
    x = IMAGES.clone().requires_grad_()
    return torch.autograd.grad(layer(x).sum(), x)[0]


def test_the_public_defaults_are_two_levels_and_sharpness_30():
    layer = SoftQuantization()
    assert (layer.num_levels, layer.sharpness, layer.hard) == (2, 30.0, False)
    assert torch.equal(layer(IMAGES), soft_quantize(IMAGES, num_levels=2, sharpness=30.0))


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("backward", ["exact", "identity", "surrogate"])
def test_the_backward_mode_changes_no_value(hard, backward):
    plain = SoftQuantization(4, 50.0, hard=hard)
    assert torch.equal(plain(IMAGES), plain.with_backward(backward)(IMAGES))


def test_the_derivative_is_the_one_that_was_named():
    soft, hard = SoftQuantization(2, 40.0), SoftQuantization(2, 40.0, hard=True)
    softer = SoftQuantization(2, 10.0)
    assert (gradient(hard) == 0).all()
    assert (gradient(soft) > 0).all()
    assert (gradient(hard.with_backward("identity")) == 1).all()
    assert torch.equal(gradient(hard.with_backward("surrogate", 10.0)), gradient(softer))


def test_an_unknown_backward_is_refused():
    with pytest.raises(InputError, match="exact, identity, surrogate"):
        SoftQuantization(backward="magic")


def test_normalize_by_hand():
    layer = Normalize((0.5, 0.25, 0.0), (0.5, 0.5, 2.0))
    for channels in (1, 4):
        with pytest.raises(InputError, match=f"The images have {channels} channels, and mean and std are of 3"):
            layer(torch.zeros(2, channels, 4, 4))
    assert layer(torch.ones(1, 3, 1, 1)).flatten().tolist() == [1.0, 1.5, 0.5]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_normalize_refuses_what_are_no_floats_instead_of_taking_255_for_a_pixel(dtype):
    layer = Normalize((0.5,) * 3, (0.2,) * 3)
    with pytest.raises(InputError, match=f"The intensities are {dtype}.*Divide uint8 by 255"):
        layer((255 * IMAGES).to(dtype))
    for floats in (torch.float16, torch.bfloat16, torch.float64):
        assert torch.equal(layer(IMAGES.to(floats)), (IMAGES.to(floats) - layer.mean) / layer.std)


def test_normalize_can_still_be_traced_exported_and_compiled_in_one_graph():
    layer = Normalize((0.5,) * 3, (0.2,) * 3)
    shapes = {"x": {0: torch.export.Dim.DYNAMIC}}
    for program in (
        fx.symbolic_trace(layer),
        torch.export.export(layer, (IMAGES,), dynamic_shapes=shapes).module(),
        torch.compile(layer, fullgraph=True, backend="aot_eager"),
        torch.func.vmap(layer),
    ):
        assert torch.allclose(program(IMAGES[:3]), layer(IMAGES[:3]), atol=1e-6)


@pytest.mark.parametrize("kind", ["uniform", "rademacher", "gaussian"])
def test_noise_is_clipped_and_seeded_by_seed_and_rank(kind):
    def noisy(seed: int, rank: int) -> torch.Tensor:
        layer = PixelNoise(kind, 0.8)
        layer.seed(seed, rank)
        return layer(IMAGES)

    assert noisy(1, 0).min() >= 0
    assert noisy(1, 0).max() <= 1
    assert torch.equal(noisy(1, 0), noisy(1, 0))
    assert not torch.equal(noisy(1, 0), noisy(1, 1))
    assert not torch.equal(noisy(1, 0), noisy(2, 0))


def test_noise_goes_on_where_its_saved_state_was_taken():
    layer = PixelNoise("uniform", 0.1)
    layer.seed(5)
    layer(IMAGES)
    state = layer.generator_state
    following = layer(IMAGES)
    other = PixelNoise("uniform", 0.1)
    other.generator_state = state
    assert torch.equal(other(IMAGES), following)
    assert torch.equal(other.generator_state, layer.generator_state)


class Placed:
    """A generator on a device that is not here."""

    def __init__(self, device):
        self.device, self.generator = device, torch.Generator()

    def __getattr__(self, name):
        return getattr(self.generator, name)


def test_noise_that_moves_to_another_gpu_goes_on_there(monkeypatch):
    monkeypatch.setattr("lightning_sq.layers.noise.Generator", Placed)
    layer = PixelNoise("uniform", 0.1)
    layer.generator_state = torch.Generator().manual_seed(3).get_state()
    torch.rand(5, generator=layer.generator_on(torch.device("cuda:0")).generator)
    state = layer.generator_state
    assert layer.generator_on(torch.device("cuda:1")).device.index == 1
    assert torch.equal(layer.generator_state, state)


def test_repeatable_noise_leaves_the_training_stream_alone():
    layer, untouched = PixelNoise("uniform", 0.1), PixelNoise("uniform", 0.1)
    first = layer.repeatable(IMAGES, torch.arange(4))
    assert torch.equal(first, layer.repeatable(IMAGES, torch.arange(4)))
    assert torch.equal(layer(IMAGES), untouched(IMAGES))


@pytest.mark.parametrize("pattern", ["pixel", "image", "blocks", "smooth", "mixture"])
def test_repeatable_noise_is_of_an_images_index_whatever_is_beside_it(pattern):
    layer, images = PixelNoise("uniform", 0.1, pattern), torch.full((4, 3, 8, 8), 0.5)
    whole = layer.repeatable(images, torch.tensor([7, 3, 1, 9]))
    assert torch.equal(layer.repeatable(images[:2], torch.tensor([1, 7])), whole[[2, 0]])
    assert len({tuple(x.flatten().tolist()) for x in whole}) == 4
    if pattern == "mixture":  # index 1 is dealt one value for all pixels, index 3 a smooth field
        assert (whole[2] == whole[2, 0, 0, 0]).all()
        assert not (whole[1] == whole[1, 0, 0, 0]).all()


def test_a_clamp_to_0_and_1_has_a_derivative_on_its_ends():
    x = torch.tensor([-1.0, 0.0, 0.25, 1.0, 2.0], requires_grad=True)
    y = UnitClamp()(x)
    assert y.tolist() == [0.0, 0.0, 0.25, 1.0, 1.0]
    assert torch.autograd.grad(y.sum(), x)[0].tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
