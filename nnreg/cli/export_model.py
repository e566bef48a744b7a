"""``nnreg_export_model``: a trained model as one file to share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnreg.cli.common import Parser, run
from nnreg.cli.dry_run import Files
from nnreg.cli.prediction import add_model_options

if TYPE_CHECKING:
    from nnreg.inference.predictor import ModelFolder


def parser() -> Parser:
    """The command's options."""
    result = Parser(
        "nnreg_export_model",
        "Write a trained model as one .zip of JSON, safetensors and a model card, with checksums; nnreg_install_model puts it elsewhere.",
        _files,
    )
    result.add_argument("-o", "--output", required=True, metavar="FILE", help="MODEL.zip; with --torchscript MODEL.pt, with --onnx MODEL.onnx")
    result.add_argument("-d", "--dataset", metavar="ID", help="dataset the model was trained on")
    result.add_argument("-c", "--configuration", metavar="NAME", help="as in nnreg_train")
    add_model_options(result, "folds (default: all trained ones)")
    result.add_argument("--torchscript", action="store_true", help="instead: network and warp as one TorchScript file (.pt), which torch runs without nnReg")
    result.add_argument("--onnx", action="store_true", help="instead: network and warp as one ONNX file (.onnx), which ONNX Runtime runs without torch")
    result.add_argument("--licence", metavar="NAME", help="of the weights, for the card: CC-BY-4.0")
    result.add_argument("--notes", default="", metavar="TEXT", help="what else the card says")
    result.add_workspace()
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run(_work, parser(), arguments)


def _files(options: argparse.Namespace) -> Files:
    """What would be read and written."""
    return Files.of([_model(options)], [options.output])


def _model(options: argparse.Namespace) -> Path:
    """The folder of the model that was named."""
    from nnreg.cli.prediction import model_folder
    from nnreg.errors import PredictionError

    if not options.model_folder and not (options.dataset and options.configuration):
        raise PredictionError("-m, or -d and -c are needed: name the model folder, or the dataset and configuration it was trained on.")
    return model_folder(options, options.configuration)


def _work(options: argparse.Namespace) -> None:
    from nnreg.inference.predictor import ModelFolder
    from nnreg.inference.sharing import export_model

    model = ModelFolder.open(_model(options))
    path = Path(options.output)
    if options.torchscript or options.onnx:
        _export_network(options, model, path)
        return
    manifest = export_model(model, path, folds=options.folds, checkpoint=options.checkpoint, licence=options.licence, notes=options.notes)
    print(f"{path}: {manifest.model}, folds {', '.join(manifest.folds)}, {path.stat().st_size / 1e6:.1f} MB")
    print(f"next: nnreg_install_model {path}, where it is wanted")


def _export_network(options: argparse.Namespace, model: ModelFolder, path: Path) -> None:
    from nnreg.cli.prediction import DEFAULT_TRAINER
    from nnreg.errors import ConfigurationError
    from nnreg.inference.onnx_export import export_onnx
    from nnreg.inference.torchscript import export_torchscript

    if options.licence or options.notes:
        raise ConfigurationError("--licence and --notes: are for the card of a .zip, TorchScript and ONNX have none. Leave them out.")
    if options.torchscript and options.onnx:
        raise ConfigurationError("--torchscript and --onnx: are two files. Name one of them.")
    trainer = None if options.trainer == DEFAULT_TRAINER else str(options.trainer)
    export = export_onnx if options.onnx else export_torchscript
    content = export(model, path, folds=options.folds, checkpoint=options.checkpoint, trainer=trainer)
    sizes = ", ".join(f"{name} {'x'.join(map(str, size))}" for name, size in content["inputs"].items())
    print(f"{path}: {content['model']}, folds {', '.join(content['folds'])}, {path.stat().st_size / 1e6:.1f} MB; {sizes}")
    load = "onnxruntime.InferenceSession" if options.onnx else "torch.jit.load"
    print(f"next: {load}({str(path)!r}), in Python or C++ without nnReg")


if __name__ == "__main__":
    sys.exit(main())
