"""README.md of a release: a model card in the Hub's format, whose every number was measured by a run."""

from __future__ import annotations

import json
from typing import Any

import yaml

from lightning_sq.evaluation.tables import largest_budget, percent, three_digits
from lightning_sq.models import QuantizerConfig
from lightning_sq.models.backbone import registered_by
from lightning_sq.models.checkpoint_format import TrainedModel
from lightning_sq.release_files import LIBRARY
from lightning_sq.releasing.evidence import proven_robust, why_not_robust
from lightning_sq.types import format_epsilon
from lightning_sq.words import counted


def model_card(
    trained: TrainedModel,
    results: dict[str, Any] | None = None,
    programs: dict[str, Any] | None = None,
    license_name: str | None = None,
) -> str:
    """The card's text.

    Args:
        trained: The model.
        results: What `evidence_for` gave, None without an evaluation.
        programs: File name to what `releasing.programs` returned.
        license_name: An identifier of the Hub's, such as apache-2.0.
    """
    front = yaml.safe_dump(_front_matter(trained, results, license_name), sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{front}---",
        f"# {_title(trained)}",
        _verdict(results),
        _facts(trained),
        _use(trained, programs or {}),
        _robustness(results),
        _limits(results),
        _training(trained),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _title(trained: TrainedModel) -> str:
    quantizer = trained.config.quantizer
    return f"{trained.config.architecture} " + (
        "without a quantizer" if quantizer is None else f"with soft quantization: {_in_words(quantizer)}"
    )


def _in_words(quantizer: QuantizerConfig) -> str:
    form = "hard" if quantizer.hard else f"sharpness {quantizer.sharpness:g}, {quantizer.staircase} staircase"
    given = "" if quantizer.thresholds is None else ", thresholds of its own (see config.json)"
    return f"{quantizer.num_levels} levels, {form}{given}"


def _front_matter(trained: TrainedModel, results: dict[str, Any] | None, license_name: str | None) -> dict[str, Any]:
    tags = ["image-classification", "timm"]
    tags += [] if trained.config.quantizer is None else ["soft-quantization"]
    tags += ["adversarial-robustness"] if proven_robust(results) or not why_not_robust(results) else []
    license_line = {} if license_name is None else {"license": license_name}
    values = license_line | {"library_name": LIBRARY, "pipeline_tag": "image-classification", "tags": tags}
    if results is None:
        return values
    row, data = results["models"][0], results["data"]
    metrics = [
        {"type": "accuracy", "name": "clean accuracy in %", "value": _rounded(row["clean_accuracy"])},
        {
            "type": "accuracy",
            "name": f"worst case over {counted(len(row['attacks']), 'attack')} at {_budget(results)}, in %",
            "value": _rounded(row["robust_accuracy"]),
        },
    ]
    dataset = {"type": data["folder"].split("/")[0], "name": f"{data['folder']}, {counted(row['num_images'], 'image')}"}
    task = {"type": "image-classification"}
    return values | {
        "model-index": [{"name": _title(trained), "results": [{"task": task, "dataset": dataset, "metrics": metrics}]}]
    }


def _budget(results: dict[str, Any]) -> str:
    """Its norm and size, for people."""
    return f"{_norm(results)} {largest_budget(results)}"


def _norm(results: dict[str, Any]) -> str:
    return {"linf": "L-inf", "l2": "L2"}[results["threat_model"]["norm"]]


def _rounded(share: float) -> float:
    return round(100 * share, 2)


def _verdict(results: dict[str, Any] | None) -> str:
    reason, proven = why_not_robust(results), proven_robust(results)
    if reason and not proven:
        return f"**Not to be called robust: {reason}.**"
    row = results["models"][0]
    images = f"{counted(row['num_images'], 'image')} at {_budget(results)}"
    if reason:
        return f"**Proven robust on {percent(proven)} % of {images}; not to be called robust beyond that: {reason}.**"
    attacks = counted(len(row["attacks"]), "attack")
    worst = percent(row["robust_accuracy"])
    return f"**Robust on {worst} % of {images}, under the worst of {attacks}; no check fired.**"


def _facts(trained: TrainedModel) -> str:
    config = trained.config
    colour = "RGB" if config.num_channels == 3 else "grey"
    front = "none" if config.quantizer is None else _in_words(config.quantizer)
    return f"""| | |
| --- | --- |
| architecture | {_network(config.architecture)}, {counted(len(config.class_names), "class")} |
| soft quantization | {front} |
| input | {colour} pixels in [0, 1], {config.image_size} x {config.image_size}; the caller normalises nothing |
| preprocessing | shorter side to {config.resize_size} (bilinear, antialiased), centre crop of {config.image_size} |
| trained | {_duration(trained.training)} |"""


def _network(architecture: str) -> str:
    """By its name, and whose it is: timm alone has not those of this project, nor those of a module of somebody's."""
    package = registered_by(architecture)
    return f"timm `{architecture}`" if package == "timm" else f"`{architecture}`, registered with timm by {package}"


def _duration(training: dict[str, Any]) -> str:
    epochs, steps = training.get("epochs"), training.get("steps")
    if epochs is None and steps is None:
        return "not said"
    known = "? epochs" if epochs is None else counted(epochs, "epoch", ".4g")
    return f"{known}, {'? steps' if steps is None else counted(steps, 'step')}"


def _use(trained: TrainedModel, programs: dict[str, Any]) -> str:
    config = trained.config
    of_timm = registered_by(config.architecture) == "timm"
    plain = "a plain timm model" if of_timm else "the network alone"
    text = f"""## Use

```python
import lightning_sq

model = lightning_sq.load("PATH/TO/THIS/FOLDER")  # or "hf-hub:org/name"
logits = model(images)  # (B, {config.num_channels}, {config.image_size}, {config.image_size}) in [0, 1]
```

`model.backbone` is {plain}; `load(..., num_classes=N)` gives it a new head, `load(..., features=True)`
feature maps, of a network that has them in timm. `lightning-sq verify PATH/TO/THIS/FOLDER` compares the logits with
those in golden.safetensors."""
    if programs:
        text += "\n\n| file | runs with | largest difference of a logit | same class |\n| --- | --- | ---: | ---: |"
    for name, made in programs.items():
        parity = made["parity"]
        text += (
            f"\n| {name} | {made['runtime']} | {parity['largest_difference']:.2g} | {percent(parity['same_class'])} % |"
        )
    return text


def _robustness(results: dict[str, Any] | None) -> str:
    if results is None:
        return """## Robustness

Not measured. Measure it: `lightning-sq evaluate PATH/TO/THIS/FOLDER --data DATA --epsilon 8/255 --output
ROBUSTNESS`. A quantizer hides gradients, so an accuracy under plain PGD alone says nothing."""
    row, budget = results["models"][0], _budget(results)
    proven = ", ".join(
        f"{percent(point['certified'])} at {format_epsilon(point['epsilon'])}"
        for point in row["curve"]
        if point["certified"] is not None
    )
    numbers = [
        ("clean accuracy", percent(row["clean_accuracy"])),
        *((f"worst case at {format_epsilon(p['epsilon'])}", percent(p["worst_case"])) for p in row["curve"]),
    ]
    lines = "\n".join(f"| {name} | {value} |" for name, value in numbers)
    attacks = "\n".join(
        f"| {one['attack']} | {one['attacked']} | {one['broken']} | {percent(one['accuracy_after'])} |"
        for one in row["attacks"]
    )
    checks = "\n".join(
        f"| {one['title']} | {'**yes**' if one['fired'] else 'no'} | {three_digits(one['measured'])} | "
        f"{three_digits(one['limit'])} |"
        for one in row["diagnostics"]
    )
    measured_on = f"{counted(row['num_images'], 'image')} of {results['data']['folder']}"
    return f"""## Robustness

Measured on {measured_on} with `lightning-sq evaluate`; every number is from results.json. The worst case is an upper
bound: another attack can only lower it.{_over_fewer(row)}

| in % of the images | |
| --- | ---: |
{lines}

Proven: {f"{proven} (in %)" if proven else "nothing"}.

| attack at {budget}, in the order in which they ran | images | broken | left in % |
| --- | ---: | ---: | ---: |
{attacks}

| check | fired | measured | limit |
| --- | --- | ---: | ---: |
{checks}"""


def _over_fewer(row: dict[str, Any]) -> str:
    """Which numbers of the curve are not over all the attacks that are listed."""
    fewer = [format_epsilon(point["epsilon"]) for point in row["curve"] if not point["complete"]]
    return f" At {' and '.join(fewer)} only those attacks were run that every image gets." if fewer else ""


def _limits(results: dict[str, Any] | None) -> str:
    if results is None:
        return ""
    budget = f"{_norm(results)} perturbations of up to {largest_budget(results)}"
    skipped = "; ".join(f"{name}, because {reason}" for name, reason in results["models"][0]["skipped"].items())
    not_run = f" Not run: {skipped}." if skipped else ""
    return f"""## Limits

The numbers hold for {budget} on images like those measured, and say nothing about other perturbations, other images, or
images of another size.{not_run}"""


def _training(trained: TrainedModel) -> str:
    if not trained.training.get("recipe"):
        return "## Training recipe\n\nNone was given with the weights."
    versions = trained.training.get("versions")
    recipe = json.dumps(_without_nulls(trained.training["recipe"]), indent=2)
    if versions:
        by = f"lightning_sq {versions['lightning_sq']}, commit {versions.get('commit', 'unknown')}. "
        by += "Values that were left as they are by default are in config.json."
    else:
        by = "As told by whoever saved the model."
    return f"""## Training recipe

{by}

```json
{recipe}
```"""


def _without_nulls(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _without_nulls(value) for key, value in values.items() if value is not None}
    return [_without_nulls(value) for value in values] if isinstance(values, list) else values
