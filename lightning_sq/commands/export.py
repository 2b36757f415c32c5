"""`lightning-sq export`: a checkpoint becomes a release folder."""

from __future__ import annotations

from pathlib import Path

from lightning_sq.commands.parser import Parser


def main(arguments: list[str]) -> None:
    parser = Parser(
        "lightning-sq export",
        description="Turn a checkpoint into weights that lightning_sq.load opens.",
        examples=[
            "lightning-sq export runs/demo/soft_quantization/checkpoints/last.ckpt runs/mine --results runs/demo --onnx"
        ],
    )
    parser.add_argument("checkpoint", type=Path, help="a .ckpt file that lightning-sq fit wrote")
    parser.add_argument("folder", type=Path, help="the release folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace a release that is there")
    parser.add_argument("--results", type=Path, help="folder of an evaluation of this checkpoint, for the model card")
    parser.add_argument("--license", help="for the model card, as the Hugging Face Hub writes it, such as apache-2.0")
    parser.add_argument("--onnx", action="store_true", help="also write model.onnx (needs the extra onnx)")
    parser.add_argument("--torch-export", action="store_true", help="also write model.pt2, for torch.export.load")
    options = parser.parse_args(arguments)

    from lightning_sq.releasing.evidence import proven_robust, why_not_robust
    from lightning_sq.releasing.export import export

    evidence = export(
        options.checkpoint,
        options.folder,
        overwrite=options.overwrite,
        results=options.results,
        onnx=options.onnx,
        torch_export=options.torch_export,
        license_name=options.license,
    )
    if reason := why_not_robust(evidence):
        beyond = " beyond what is proven" if proven_robust(evidence) else ""
        print(f"the card does not call it robust{beyond}: {reason}")
    print(f"released to {options.folder}; lightning_sq.load({str(options.folder)!r}) opens it")
