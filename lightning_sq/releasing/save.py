"""A model in memory becomes a release, as one in a checkpoint does by `lightning-sq export`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_sq.errors import InputError, one_line
from lightning_sq.layers.eval_mode import in_eval_mode
from lightning_sq.models import ModelConfig, PixelClassifier, build_model
from lightning_sq.models.backbone import check_image_size
from lightning_sq.models.checkpoint_format import TrainedModel, misfit_in_words
from lightning_sq.models.release_format import check_replaceable
from lightning_sq.paths import expanded
from lightning_sq.releasing.export import release, verify_in_a_fresh_process
from lightning_sq.releasing.golden import check_finite, compare, golden_images, logits_of
from lightning_sq.words import counted


def save(
    model: PixelClassifier,
    folder: str | Path,
    *,
    recipe: dict[str, Any] | None = None,
    image_size: int | None = None,
    resize_size: int | None = None,
    overwrite: bool = False,
    results: str | Path | None = None,
    onnx: bool = False,
    torch_export: bool = False,
    license_name: str | None = None,
    check: Callable[[Path], object] = verify_in_a_fresh_process,
) -> None:
    """Write a release of `model` as it is now, for `lightning_sq.load` and every command.

    Args:
        model: What `lightning_sq.load` gave, trained further; on any device, in either mode. Its classes are those of
            `load(..., num_classes=N, class_names=NAMES)`.
        folder: Where the release is to be.
        recipe: How it was trained, for the card: values as they stand in JSON, and no paths.
        image_size: Height and width that it was trained for, if no longer `model.config.image_size`.
        resize_size: Of the shorter side before the centre crop; by default it is as much larger as it was.
        overwrite: Replace a release that is there.
        results: Folder of a `lightning-sq evaluate` of the same weights, such as of this release before; without one
            the card says that the model has not been evaluated.
        onnx: Also write model.onnx.
        torch_export: Also write model.pt2.
        license_name: For the card, an identifier of the Hub's such as apache-2.0.
        check: Looks at the finished folder; a new process loads it and compares the logits.
    Raises: InputError for a model that its description does not make again or that gives NaN, for results of other
        weights, and for a `folder` that is in the way.
    Example:
        >>> model = lightning_sq.load("runs/demo/release", num_classes=2, class_names=["cat", "dog"])  # doctest: +SKIP
        >>> lightning_sq.save(model, "runs/pets")                                             # doctest: +SKIP
    """
    folder = expanded(folder)
    check_replaceable(folder, overwrite=overwrite, option="overwrite=True")
    config = _description_of(model, image_size, resize_size)
    state = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    trained = TrainedModel(config, state, {"recipe": _checked(recipe)})
    _check_same(model, trained)
    release(
        trained,
        folder,
        overwrite=overwrite,
        results=None if results is None else expanded(results),
        onnx=onnx,
        torch_export=torch_export,
        license_name=license_name,
        check=check,
    )


def _description_of(model: PixelClassifier, image_size: int | None, resize_size: int | None) -> ModelConfig:
    config = model.current_config() if isinstance(model, PixelClassifier) else None
    if config is None:
        raise InputError(
            f"The model is a {type(model).__name__} without a description. Give what lightning_sq.load gave, and not "
            "what wraps it or was cut out of it."
        )
    if not config.class_names:
        raise InputError("The model has no head, and a release has one. Load it with num_classes=N.")
    size = config.image_size if image_size is None else image_size
    resize = round(size * config.resize_size / config.image_size) if resize_size is None else resize_size
    if not 1 <= size <= resize:
        raise InputError(f"image_size={size} and resize_size={resize} do not go: 1 <= image_size <= resize_size.")
    return replace(config, image_size=size, resize_size=resize)


def _checked(recipe: dict[str, Any] | None) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(recipe or {}, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"recipe holds more than JSON can ({one_line(error)}). Give numbers and texts.") from None


def _check_same(model: PixelClassifier, trained: TrainedModel) -> None:
    """Raises: InputError if another model comes out of the description and the weights than went in."""
    config, again = trained.config, build_model(trained.config)
    num_classes = len(config.class_names)
    changed = f"The model is no longer the {config.architecture} with {counted(num_classes, 'class')} that was loaded"
    if wrong := misfit_in_words(again, trained.state):
        raise InputError(
            f"{changed}: {wrong}. A head comes by load(..., num_classes=N), and weights are released in float32: "
            "model.float()."
        )
    again.load_state_dict(trained.state)
    check_image_size(again, config.architecture, config.image_size, num_classes, config.num_channels)
    images = golden_images(config).to(model.normalize.mean.device)
    with in_eval_mode(model):
        logits = logits_of(model, images)
    check_finite(logits)
    parity = compare(logits, logits_of(again.eval().to(images.device), images))
    if not parity.holds:
        raise InputError(
            f"{changed}: logits differ by up to {parity.largest_difference:.3g}, so something without weights was "
            "replaced. Take the model as load gives it, and train that."
        )
