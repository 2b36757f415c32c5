import pytest

from lightning_sq.training.resume.saved_state import _other_objective

NOISY = "lightning_sq.objectives.NoisyNatural"


def recipe(class_path=None, **init_args):
    objective = None if class_path is None else {"class_path": class_path, "init_args": init_args}
    return {"model": {"objective": objective}}


@pytest.mark.parametrize(
    ("there", "here", "differences"),
    [
        (recipe(), recipe(), []),
        (recipe(NOISY, num_draws=2), recipe(NOISY, num_draws=2), []),
        (recipe(NOISY, num_draws=2), recipe(NOISY, num_draws=3), [("--model.objective.num_draws", 2, 3)]),
        (recipe(NOISY), recipe(NOISY, num_flips=0, scales=[2, 4, 8]), []),  # written before there were flips
        (recipe(NOISY), recipe(NOISY, num_flips=32), [("--model.objective.num_flips", 0, 32)]),
        (recipe(NOISY, of_then=1), recipe(NOISY), []),
        (
            recipe(NOISY, num_draws=2),
            recipe("lightning_sq.objectives.FGSMRS", alpha=0.5),
            [("--model.objective", NOISY, "lightning_sq.objectives.FGSMRS")],
        ),
        (recipe(), recipe(NOISY), [("--model.objective", "lightning_sq.objectives.Natural", NOISY)]),
    ],
)
def test_another_objective_is_one_with_another_option_where_an_older_run_had_the_default(there, here, differences):
    assert list(_other_objective(there, here)) == differences
