"""Full float32 inside, and the caller's settings afterwards, under each of the names that torch has for them."""

from __future__ import annotations

import pytest
import torch

from lightning_sq.ops.precision import full_precision

backends = torch.backends


def places() -> dict:
    return {
        "everything": backends,
        "cudnn": backends.cudnn,
        "matmul": backends.cuda.matmul,
        "conv": backends.cudnn.conv,
        "rnn": backends.cudnn.rnn,
        "matmul on the CPU": backends.mkldnn.matmul,
        "conv on the CPU": backends.mkldnn.conv,
        "rnn on the CPU": backends.mkldnn.rnn,
    }


OLDER = {
    "allow_tf32 of matmul": lambda: backends.cuda.matmul.allow_tf32,
    "allow_tf32 of conv": lambda: backends.cudnn.allow_tf32,
    "float32_matmul_precision": torch.get_float32_matmul_precision,
}


def settings() -> dict:
    found = {name: place.fp32_precision for name, place in places().items()}
    for name, setting in OLDER.items():
        try:
            found[name] = setting()
        except RuntimeError:
            found[name] = "torch refuses to read it"
    return found


@pytest.fixture(autouse=True)
def defaults():
    yield
    for place in places().values():
        place.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    backends.cudnn.allow_tf32 = True
    backends.cuda.matmul.fp32_precision = backends.mkldnn.matmul.fp32_precision = "none"


def of_conv(allowed: bool) -> None:
    backends.cudnn.allow_tf32 = allowed


def newer(name: str, value: str) -> None:
    places()[name].fp32_precision = value


CALLERS = {
    "nothing": (),
    "matmul": [(newer, "matmul", "tf32")],
    "everything": [(newer, "everything", "tf32")],
    "cudnn": [(newer, "cudnn", "tf32")],
    "everything, but matmul": [(newer, "everything", "tf32"), (newer, "matmul", "ieee")],
    "conv ieee": [(newer, "conv", "ieee")],
    "conv on the CPU": [(newer, "conv on the CPU", "bf16")],
    "high": [(torch.set_float32_matmul_precision, "high")],
    "medium": [(torch.set_float32_matmul_precision, "medium")],
    "no tf32 in conv": [(of_conv, False)],
    "older and newer": [(torch.set_float32_matmul_precision, "high"), (newer, "matmul", "ieee")],
    "older and newer for conv": [(of_conv, False), (newer, "everything", "tf32")],
}


@pytest.mark.parametrize("caller", CALLERS)
def test_float32_is_ieee_inside_and_the_callers_settings_come_back(caller):
    for function, *arguments in CALLERS[caller]:
        function(*arguments)
    before = settings()
    with full_precision():
        inside = settings()
    assert {inside[name] for name in places() if name not in ("everything", "cudnn")} == {"ieee"}
    assert settings() == before


def test_a_setting_for_all_of_torch_still_reaches_what_followed_it_before():
    newer("everything", "tf32")
    with full_precision():
        pass
    newer("everything", "ieee")
    assert backends.cuda.matmul.fp32_precision == backends.mkldnn.conv.fp32_precision == "ieee"


@pytest.mark.parametrize("caller", ["nothing", "high", "medium", "no tf32 in conv"])
def test_inside_the_older_names_can_be_read_where_they_could_before(caller):
    for function, *arguments in CALLERS[caller]:
        function(*arguments)
    with full_precision():
        inside = settings()
    assert [inside[name] for name in OLDER] == [False, False, "highest"]


def test_autocast_is_off_inside():
    with torch.autocast("cpu", torch.bfloat16), full_precision():
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.float32
