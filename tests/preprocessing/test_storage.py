import numpy as np
import pytest

from nnreg.errors import PreprocessingError
from nnreg.geometry import Space
from nnreg.preprocessing.chunks import BLOCK_BYTES, CHUNK_BYTES, chunks_and_blocks
from nnreg.preprocessing.registration.storage import PreprocessedCase, PreprocessedDataset, Properties, read_array, write_array


@pytest.mark.parametrize("shape", [(1, 160, 192, 224), (3, 18, 256, 216), (1, 482, 512, 512), (2, 7, 5), (1, 700, 900), (1, 1, 30, 40)])
@pytest.mark.parametrize("itemsize", [1, 4])
def test_chunks_and_blocks_fit_caches_and_array(shape, itemsize):
    chunks, blocks = chunks_and_blocks(shape, shape[1:], itemsize)
    assert chunks[0] == blocks[0] == 1
    assert np.prod(blocks) * itemsize <= BLOCK_BYTES
    assert np.prod(chunks) * itemsize <= CHUNK_BYTES
    assert all(1 <= block <= chunk <= size for block, chunk, size in zip(blocks, chunks, shape, strict=True))


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint8])
def test_arrays_come_back_exactly(tmp_path, shape, dtype):
    array = (np.random.default_rng(0).normal(size=(2, *shape)) * 50).astype(dtype)
    write_array(tmp_path / "a.b2nd", array)
    found = read_array(tmp_path / "a.b2nd")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, array)


def _case(space, name="c1"):
    rng = np.random.default_rng(1)
    properties = Properties(name, space, space, np.eye(space.ndim + 1) + 0.1, {"kind": "affine"}, rng.normal(size=(4, space.ndim)))
    return PreprocessedCase(rng.normal(size=(1, *space.shape)).astype(np.float32), np.ones((1, *space.shape), np.int16), None, properties)


def test_a_case_comes_back_whole(tmp_path, shape, rotated_space):
    case = _case(rotated_space(shape))
    case.save(tmp_path)
    data = PreprocessedDataset(tmp_path)
    assert data.cases == ["c1"]
    found = data.load("c1")
    np.testing.assert_array_equal(found.image, case.image)
    np.testing.assert_array_equal(found.labels, case.labels)
    assert found.mask is None
    assert found.properties.native == case.properties.native
    np.testing.assert_array_equal(found.properties.to_native, case.properties.to_native)
    np.testing.assert_array_equal(found.properties.keypoints, case.properties.keypoints)


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(PreprocessingError, match="nnreg_plan_and_preprocess"):
        PreprocessedDataset(tmp_path / "nothing")
    _case(Space.plain((6, 7))).save(tmp_path)
    data = PreprocessedDataset(tmp_path)
    with pytest.raises(PreprocessingError, match=r"other\.json"):
        data.load("other")
    (tmp_path / "c1.b2nd").write_bytes(b"nonsense")
    with pytest.raises(PreprocessingError, match=r"c1\.b2nd: is damaged"):
        data.load("c1")
    (tmp_path / "c1.b2nd").unlink()
    with pytest.raises(PreprocessingError, match=r"c1\.b2nd: does not exist"):
        data.load("c1")
    (tmp_path / "c1.json").write_text("{}")
    with pytest.raises(PreprocessingError, match="schema version"):
        data.load("c1")
