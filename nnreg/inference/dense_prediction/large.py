"""Predict an image that does not fit into memory: tiles are read from its chunks, labels and values written into those of a Zarr."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from nnreg.errors import PredictionError
from nnreg.geometry import Space
from nnreg.imageio.lazy import BLOCK_VOXELS, Box, boxes
from nnreg.imageio.zarr_files import CHUNK
from nnreg.inference.dense_prediction.large_targets import Labelled, Limits, Meaning, Valued, native_file, slices
from nnreg.inference.dense_prediction.predictor import DensePredictor, with_previous
from nnreg.inference.dense_prediction.sliding_window import OnTile
from nnreg.inference.dense_prediction.streamed_window import StreamedWindow
from nnreg.preprocessing.dense_prediction.storage import DenseProperties
from nnreg.preprocessing.dense_prediction.streamed_resample import Grids

ENDING = ".zarr"


@dataclass(frozen=True, eq=False)
class LargePrepared:
    """A large case on the working grid, box by box.

    Attributes
    ----------
    read
        (C, *box) values, float32.
    shape : voxels per axis of the working grid
    properties : DenseProperties
        Of the image, turned as the plans say.
    native : Space
        Of the image as it is stored.
    previous
        (T, *box) labels of the stage before, in a cascade.
    """

    read: Callable[[Box], npt.NDArray[np.float32]]
    shape: tuple[int, ...]
    properties: DenseProperties
    native: Space
    previous: Callable[[Box], npt.NDArray[np.integer]] | None = None


def predict_large(
    predictor: DensePredictor,
    prepared: LargePrepared,
    paths: Mapping[str, Path],
    *,
    region: Box | None = None,
    on_tile: OnTile = lambda done, total: None,
) -> None:
    """Predict a case into label maps and maps of values, each a Zarr on the image's own grid.

    Memory is bounded whatever the size: outputs are written as soon as no further tile reaches them; where the working grid is another than the
    image's, they lie in a temporary file, logits in half and values in single precision, until they are interpolated.

    Parameters
    ----------
    paths
        Of the file of each target.
    region
        Box of the working grid that alone is predicted; what is outside is background, and means nothing where values are predicted.

    Raises
    ------
    PredictionError
        If the network does not fit the targets, or the earlier stage of a cascade is missing.
    NnRegError
        If the image has an unreadable chunk, or the disk is full; a file that was there before stays.
    """
    plans, places = predictor.plans, predictor.places
    meanings = {target: _meaning(predictor, target, paths[target]) for target in places}
    heads = sum(output.heads for output in predictor.targets.values())
    grids = _back(predictor, prepared)
    streamed = StreamedWindow(predictor.window, _input(predictor, prepared), prepared.shape, heads)
    with contextlib.ExitStack() as stack:
        native = {
            target: stack.enter_context(native_file(paths[target], meaning, prepared.properties, prepared.native, plans.transpose_forward, plans.orientation))
            for target, meaning in meanings.items()
        }
        if grids.same:
            for box, outputs in streamed(region, on_tile):
                for target, place in places.items():
                    native[target].write(box, meanings[target].told(outputs[place]))
            return
        stored = {target: stack.enter_context(_room(predictor.targets[target].heads, prepared.shape, meaning.kept)) for target, meaning in meanings.items()}
        limits = _kept(streamed(region, on_tile), stored, places, grids, whole=region is None)
        for box in boxes(grids.new, (CHUNK,) * 3, None, BLOCK_VOXELS // heads):
            for target, meaning in meanings.items():
                native[target].write(box, meaning.interpolated(stored[target], grids, box, limits[target]))


def _meaning(predictor: DensePredictor, target: str, path: Path) -> Meaning:
    if predictor.has_labels(target):
        return Labelled(predictor.labels_of(target))
    return Valued(predictor.plans.targets[target], predictor.dtype_in(path, target))


def _input(predictor: DensePredictor, prepared: LargePrepared) -> Callable[[Box], npt.NDArray[np.float32]]:
    """The image, in a cascade with a channel per label of the stage before."""
    values, previous = predictor.previous_labels, prepared.previous
    if not values:
        return prepared.read
    if previous is None:
        raise PredictionError(f"this configuration needs predictions of {predictor.configuration.previous_stage}: name their folder (-prev_stage_predictions).")

    def read(box: Box) -> npt.NDArray[np.float32]:
        return with_previous(prepared.read(box), previous(box), values)

    return read


def _back(predictor: DensePredictor, prepared: LargePrepared) -> Grids:
    """From the working grid to the cropped image."""
    native = prepared.properties.spacing(predictor.plans.transpose_forward)
    configuration = predictor.configuration
    working = (*native[: 3 - len(configuration.spacing)], *configuration.spacing)
    how = configuration.resampling
    grids = Grids.of(prepared.shape, prepared.properties.shape_after_crop, working, native, how)
    some = any(map(predictor.has_labels, predictor.targets))
    if some and not grids.same and (how.probabilities_order != 1 or (grids.alone is not None and how.between_slices_order != 0)):
        raise PredictionError(f"logits of images that are read by parts are interpolated linearly, the plans say {how}. Change the plans.")
    return grids


def _kept(found: Iterable[tuple[Box, Tensor]], stored: Mapping[str, Any], places: Mapping[str, slice], grids: Grids, *, whole: bool) -> dict[str, Limits]:
    """Put outputs where they wait; the limits of those of every target, which those of labels need not be kept within."""
    valued = [target for target in places if stored[target].dtype == np.float32]

    def blocks() -> Iterator[tuple[Box, npt.NDArray[np.float32]]]:
        for box, outputs in found:
            for target, place in places.items():
                # half precision ends at 65504
                part = outputs[place] if target in valued else outputs[place].clamp(-65504, 65504).half()
                stored[target][(slice(None), *slices(box))] = part.numpy()
            yield box, np.concatenate([outputs[places[target]].numpy() for target in valued] or [outputs[:0].numpy()])

    heads = {target: places[target].stop - places[target].start for target in valued}
    low, high = grids.limits(blocks(), sum(heads.values()))
    if not whole:  # elsewhere the file holds 0
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    result, first = {}, 0
    for target in places:
        last = first + heads.get(target, 0)
        result[target] = low[first:last], high[first:last]
        first = last
    return result


@contextlib.contextmanager
def _room(heads: int, shape: Sequence[int], dtype: Any) -> Iterator[Any]:
    """Room for outputs (K, D, H, W), compressed in a temporary file; where nothing is written, they are 0."""
    import blosc2

    with tempfile.TemporaryDirectory(prefix="nnreg_", ignore_cleanup_errors=True) as folder:
        chunks = (1, *(min(CHUNK, size) for size in shape))
        yield blosc2.zeros((heads, *shape), dtype=dtype, urlpath=str(Path(folder) / "outputs.b2nd"), mode="w", chunks=chunks, cparams={"clevel": 1})
