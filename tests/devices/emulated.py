"""A device that is not the CPU, on the CPU: what a GPU refuses is refused here, and numbers are real.

Tensors on "other:0" hold one on the CPU. An operation on them and on a CPU tensor together, a generator of the wrong
device, or `numpy()` without `cpu()` is an error, as on a GPU; so what forgets a device is found without one. It is
torch's place for devices from outside (PrivateUse1) with a Python backend, which no other test of the process should
meet: run it in a process of its own.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch._dynamo  # its annotations want the Generator that is replaced below
import torch._inductor
from lightning.pytorch.accelerators import Accelerator, AcceleratorRegistry
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "other"
MAY_LIE_ON_THE_CPU = (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_)
"""Their places, as on a GPU."""
REFUSE_NUMBERS = (torch.ops.aten.clamp, torch.ops.aten.clamp_, torch.ops.aten.clamp_min, torch.ops.aten.clamp_max)
"""Of these a GPU refuses a CPU tensor even where it is a single number."""


class _Module:
    """torch.other, as far as it is asked for."""

    def __getattr__(self, name: str) -> Any:
        answers = {"device_count": 1, "current_device": 0, "is_available": True, "is_initialized": True}
        if name not in (*answers, "_is_in_bad_fork", "manual_seed_all", "get_amp_supported_dtype"):
            raise AttributeError(name)
        return lambda *_: [torch.bfloat16] if name == "get_amp_supported_dtype" else answers.get(name)


class OnOther(Tensor):
    """A tensor on the emulated device, which holds one on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> OnOther:
        options = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        made = Tensor._make_wrapper_subclass(cls, held.size(), device=torch.device(NAME, 0), **options)
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def __repr__(self) -> str:
        return f"OnOther({self.held!r})"

    def tolist(self) -> Any:
        return self.held.tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.__reduce_ex__(protocol)  # a checkpoint is read on the CPU


class Emulated(TorchDispatchMode):
    """Inside, `device="other"` means the emulated device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """`func` on the CPU, its result on the emulated device if that is where a GPU's would be."""
    given = any(isinstance(value, OnOther) for value in tree_leaves((args, kwargs)))
    asked = kwargs.get("device")
    on_other = given if asked is None else torch.device(asked).type == NAME
    copies = func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_)
    if given and not copies:
        _refuse_cpu_tensors(func, args, kwargs)
    for value in tree_leaves(kwargs):
        if isinstance(value, torch.Generator) and (value._cdata in GENERATORS) != on_other:
            raise RuntimeError(f"{func}: the generator is of another device than the result")
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu"), "pin_memory": False}
    bare_args, bare_kwargs = tree_map_only(OnOther, lambda value: value.held, (args, kwargs))
    if copies:
        bare_kwargs.pop("pin_memory", None)
    result = func(*bare_args, **bare_kwargs)
    if func.overloadpacket is torch.ops.aten.copy_:
        return args[0]
    if not on_other:
        return result
    result = tree_map_only(Tensor, OnOther, result)
    return return_and_correct_aliasing(func, args, kwargs, result) if given and asked is None else result


def _refuse_cpu_tensors(func: Any, args: Any, kwargs: dict[str, Any]) -> None:
    looked_at = args[:1] if func.overloadpacket in MAY_LIE_ON_THE_CPU else (args, kwargs)
    for value in tree_leaves(looked_at):
        is_refused = isinstance(value, Tensor) and (value.dim() > 0 or func.overloadpacket in REFUSE_NUMBERS)
        if is_refused and not isinstance(value, OnOther):
            raise RuntimeError(f"{func}: a tensor {tuple(value.shape)} is on the CPU and another on {NAME}:0")


GENERATORS: dict[int, torch.Generator] = {}
"""Those of the emulated device, which are the CPU's in truth; by address, because torch hands on others."""
CPU_GENERATOR = torch.Generator


class _IsGenerator(type):
    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, CPU_GENERATOR)


class _Generator(metaclass=_IsGenerator):
    def __new__(cls, device: Any = "cpu") -> torch.Generator:
        if torch.device(device).type != NAME:
            return CPU_GENERATOR(device)
        made = CPU_GENERATOR()
        GENERATORS[made._cdata] = made
        return made


def _by_way_of_the_cpu(make: Any) -> Any:
    """torch.tensor and torch.as_tensor reach their device past every dispatch."""

    def made(data: Any, *, device: Any = None, **options: Any) -> Tensor:
        return make(data, **options) if device is None else make(data, **options).to(device)

    return made


class OtherAccelerator(Accelerator):
    """The emulated device for Lightning: `--trainer.accelerator other`."""

    def setup_device(self, device: torch.device) -> None:
        assert device.type == NAME

    def teardown(self) -> None:
        pass

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}

    @staticmethod
    def parse_devices(devices: Any) -> int:
        return int(devices)

    @staticmethod
    def get_parallel_devices(devices: int) -> list[torch.device]:
        return [torch.device(NAME, 0)]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return NAME


AUTOCAST = "AutocastPrivateUse1"
IN_BFLOAT16, IN_FLOAT32 = ("conv2d", "linear", "matmul"), ("cross_entropy_loss", "log_softmax.int", "softmax.int")
"""What autocast casts here: of a GPU's lists that of which models and objectives are made most."""
_LIBRARIES: list[torch.library.Library] = []
"""What is registered goes with them."""


def _casting(operation: Any, dtype: torch.dtype) -> Any:
    """`operation` on floating-point tensors of `dtype`."""
    cast = partial(tree_map_only, Tensor, lambda x: x.to(dtype) if x.is_floating_point() else x)

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, AUTOCAST))):
            return operation(*cast(args), **cast(kwargs))

    return run


def _install_autocast() -> None:
    """torch has lists for the devices that it knows, and for others not even that the rest stays as it is."""
    rest, ours = torch.library.Library("_", "IMPL", AUTOCAST), torch.library.Library("aten", "IMPL", AUTOCAST)
    rest.fallback(torch.library.fallthrough_kernel)
    for names, dtype in ((IN_BFLOAT16, torch.bfloat16), (IN_FLOAT32, torch.float32)):
        for name in names:
            packet, _, overload = name.partition(".")
            ours.impl(name, _casting(getattr(getattr(torch.ops.aten, packet), overload or "default"), dtype))
    _LIBRARIES.extend((rest, ours))


def install() -> None:
    """For the rest of this process."""
    _install_autocast()
    _setup_privateuseone_for_python_backend(NAME, _Module())
    torch.__future__.set_swap_module_params_on_conversion(True)
    torch.Generator = _Generator
    torch.tensor, torch.as_tensor = _by_way_of_the_cpu(torch.tensor), _by_way_of_the_cpu(torch.as_tensor)
    AcceleratorRegistry.register(NAME, OtherAccelerator, description="emulated on the CPU")
