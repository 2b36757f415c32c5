"""`lightning-sq verify`: does a release give the logits here that it gave where it was made?"""

from __future__ import annotations

from pathlib import Path

from lightning_sq.commands.parser import Parser
from lightning_sq.words import counted


def main(arguments: list[str]) -> None:
    parser = Parser(
        "lightning-sq verify",
        description="Does a release give the logits that it gave?",
        examples=["lightning-sq verify runs/demo/release"],
    )
    parser.add_argument("folder", type=Path, help="a release folder")
    options = parser.parse_args(arguments)

    from lightning_sq.releasing.golden import verify

    parity = verify(options.folder)
    print(
        f"the logits of {counted(parity.num_images, 'image')} differ by at most {parity.largest_difference:.2g} "
        f"(the largest is {parity.largest_logit:.3g}) from the golden ones"
    )
