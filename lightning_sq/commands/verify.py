"""`lightning-sq verify`: does a release give the logits here that it gave where it was made?"""

from __future__ import annotations

from pathlib import Path

from lightning_sq.commands.parser import Parser
from lightning_sq.release_files import ONNX_FILE
from lightning_sq.words import counted


def main(arguments: list[str]) -> None:
    parser = Parser(
        "lightning-sq verify",
        description="Are all files of a release as they were, and does it give the logits that it gave? Also asked of "
        f"{ONNX_FILE}, if there is one and onnxruntime is installed.",
        examples=["lightning-sq verify runs/demo/release"],
    )
    parser.add_argument("folder", type=Path, help="a release folder")
    options = parser.parse_args(arguments)

    from lightning_sq.releasing.golden import verify
    from lightning_sq.releasing.programs import verify_onnx

    parity = verify(options.folder)
    print(
        f"the logits of {counted(parity.num_images, 'image')} differ by at most {parity.largest_difference:.2g} "
        f"(the largest is {parity.largest_logit:.3g}) from the golden ones"
    )
    if onnx := verify_onnx(options.folder):
        print(f"those of {ONNX_FILE} by at most {onnx.largest_difference:.2g}")
