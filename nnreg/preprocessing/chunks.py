"""How arrays are cut into chunks and blocks, after nnU-Net's rule for its blosc2 files (blocks are equal, chunks nearly)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BLOCK_BYTES = 128 * 1024  # a block is what is decompressed at once: it should stay in the fastest cache
CHUNK_BYTES = 6 * 1024**2
READ_PER_PATCH = 1.5  # reading more than this times the patch, for one patch, is waste


def chunks_and_blocks(shape: Sequence[int], patch: Sequence[int], itemsize: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Chunk and block shape for an array ``(C, *spatial)`` that is read patch by patch.

    Blocks start at the power of two above the patch and lose a half along the axis that exceeds its share most, until they have 128 KiB;
    chunks are whole blocks, grown along the axis covered least, up to 6 MiB. The channel axis is always cut.
    """
    image = np.asarray(shape[1:])
    wanted = np.asarray([1] * (len(image) - len(patch)) + list(patch))
    limit = np.minimum(image, np.maximum(1, (READ_PER_PATCH * wanted).astype(int)))
    block = np.minimum(image, [2 ** int(np.ceil(np.log2(max(1, size)))) for size in wanted])
    while np.prod(block) * itemsize > BLOCK_BYTES:
        share = np.where(block > 1, block / limit, -1.0)
        axis = len(share) - 1 - int(np.argmax(share[::-1]))
        block[axis] = 2 ** int(np.floor(np.log2(block[axis] - 1)))
    block = np.minimum(block, limit)
    chunk = block.copy()
    while (chunk < limit).any():
        share = np.where(chunk < limit, chunk / limit, np.inf)
        axis = int(np.argmin(share))
        grown = chunk.copy()
        grown[axis] = min(limit[axis], chunk[axis] + block[axis])
        if np.prod(grown) * itemsize > CHUNK_BYTES:
            break
        chunk = grown
    return (1, *(int(size) for size in chunk)), (1, *(int(size) for size in block))
