"""Prediction into a folder of BIDS derivatives: nnReg's own results first, in a hidden folder, then under their BIDS names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnreg.dataset.pairs import Pair
from nnreg.errors import PredictionError
from nnreg.inference.registration.bids import BidsName, check_distinct, derivatives, lay_out, name_of
from nnreg.inference.registration.cases import FolderCases, NewImages, refuse_own_folder
from nnreg.inference.registration.models import PairModel
from nnreg.inference.registration.predict import PredictOptions, chosen_pairs, register_images

DEFAULTS = PredictOptions()


def predict_as_bids(model: PairModel, images: NewImages, output: Path, *, options: PredictOptions = DEFAULTS, **heard: Any) -> dict[str, Any]:
    """:func:`nnreg.inference.registration.predict.register_images`, laid out as BIDS derivatives.

    Returns
    -------
    dict
        What would be the content of ``prediction.json``.

    Raises
    ------
    NnRegError
        If a name has no BIDS suffix, two pairs would have one name, `output` is a raw dataset, or finished pairs are to be kept.
    """
    if options.continue_prediction:
        raise PredictionError("--continue_prediction: looks for pairs in nnReg's own layout. Leave it out, or --output_layout bids.")
    refuse_own_folder(output, images.folder, images.labels)
    source = model.source(images)
    names = names_of(model, source, chosen_pairs(model.spec, source, images))
    with derivatives(output) as part:
        content = register_images(model, images, part, options=options, **heard)
        if "guides_fused_from" in content:  # they lie in the hidden folder, which goes
            content.pop("guides_folder")
        for entry in content["pairs"]:
            record = {key: value for key, value in {**content, **entry}.items() if key != "pairs"}
            lay_out(part / entry["name"], output, names[entry["fixed"]], names[entry["moving"]], record)
        return content


def names_of(model: PairModel, source: FolderCases, pairs: Sequence[Pair]) -> dict[str, BidsName]:
    """Case to what its image is called, for cases whose pairs all have names of their own."""
    cases = {case for pair in pairs for case in (pair.fixed, pair.moving)}
    channel = next(iter(model.spec.channel_names.values()))
    names = {case: replace(name_of(case, str(channel)), source=str(source.paths(case)[0])) for case in sorted(cases)}
    check_distinct([(names[pair.fixed], names[pair.moving]) for pair in pairs])
    return names


__all__ = ["names_of", "predict_as_bids"]
