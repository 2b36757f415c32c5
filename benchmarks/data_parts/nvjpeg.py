"""Which nvJPEG DALI has loaded, for data.py and gpu.py: an old one leaves most images to the CPU and says nothing."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

from common.budget import Record

from lightning_sq.errors import one_line

MAPS = Path("/proc/self/maps")
CROPS_SMOOTHLY = (13, 2)
"""The first nvJPEG that cuts a window out of a file with subsampled colour and enlarges its colour smoothly, as
`data/dali` asks for. With an older one nvImageCodec has such files, nearly all JPEGs, decoded on the CPU."""
SETTING = "nvJPEG loaded"


def loaded_nvjpeg(maps: str) -> Path | None:
    """The library in the text of a process's maps; torchvision's own copy, whose name has a hash, is not DALI's."""
    files = (line.split(maxsplit=5)[5] for line in maps.splitlines() if len(line.split(maxsplit=5)) == 6)
    return next((Path(file) for file in files if re.fullmatch(r"libnvjpeg\.so(\.\d+)*", Path(file).name)), None)


def version_of(library: Path) -> tuple[int, ...]:
    """(major, minor, patch), as the library itself says."""
    ask, value, found = ctypes.CDLL(str(library)).nvjpegGetProperty, ctypes.c_int(), []
    for part in range(3):
        if status := ask(part, ctypes.byref(value)):
            raise OSError(f"{library.name} does not tell its version: nvjpegGetProperty gives {status}")
        found.append(value.value)
    return tuple(found)


def nvjpeg_in_use(record: Record) -> dict[str, str]:
    """Asked behind a first pipeline on a GPU, it keeps the version with the record's settings.

    Returns: for the detail of a row, a warning where "mixed decoder" says too much, or nothing.
    """
    library = loaded_nvjpeg(MAPS.read_text())
    if library is None:
        record.settings[SETTING] = "none"
        return {"warning": "no libnvjpeg.so was loaded: is anything decoded on the GPU?"}
    try:
        version = version_of(library)
    except (OSError, AttributeError) as error:
        record.settings[SETTING] = "unknown"
        return {"warning": one_line(error)}
    record.settings[SETTING] = called = ".".join(map(str, version))
    if version[:2] >= CROPS_SMOOTHLY:
        return {}
    least = ".".join(map(str, CROPS_SMOOTHLY))
    return {
        "warning": f"nvJPEG {called} is older than {least}: crops of JPEGs with subsampled colour, nearly all, are "
        "decoded on the CPU"
    }
