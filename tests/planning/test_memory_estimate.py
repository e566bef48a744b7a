import pytest
import torch

from nnreg.architecture import build_network
from nnreg.planning import memory
from nnreg.planning.topology import topology


def _plan(grid, spacing=None, resolution=2, base=4):
    pyramid = topology(spacing or (1.0,) * len(grid), grid)
    stages = len(pyramid.strides)
    features = [min(base * 2**stage, 16) for stage in range(stages)]
    return {
        "strides": pyramid.strides,
        "kernel_sizes": pyramid.kernel_sizes,
        "features": features,
        "blocks": [1] * stages,
        "field_resolution": resolution,
        "correlation_radius": 1,
    }


def _network(plan, ndim):
    return build_network(
        "dual_pyramid",
        channels=1,
        ndim=ndim,
        strides=plan["strides"],
        kernel_sizes=plan["kernel_sizes"],
        features_per_stage=plan["features"],
        blocks_per_stage=plan["blocks"],
        field_resolution=plan["field_resolution"],
        correlation_radius=1,
    )


CASES = [((33, 40, 27), None, 2), ((24, 20, 28), None, 1), ((10, 64, 60), (8.0, 1.0, 1.0), 2), ((96, 70), None, 2), ((50, 64), None, 1)]


def test_field_count_and_shapes_are_those_of_the_network():
    for grid, spacing, resolution in CASES:
        plan = _plan(grid, spacing, resolution)
        network = _network(plan, len(grid))
        fields = network(fixed=torch.rand(1, 1, *grid), moving=torch.rand(1, 1, *grid))
        assert len(fields) == memory.field_count(plan["strides"], resolution)
        levels = memory.levels(grid, plan["strides"], plan["features"], plan["blocks"], resolution)
        assert [level.shape for level in levels] == [tuple(field.shape[2:]) for field in fields][-len(levels) :]


def test_kept_numbers_are_what_autograd_keeps():
    """The closed form against the bytes that the graph of a real forward pass holds."""
    for grid, spacing, resolution in CASES:
        plan = _plan(grid, spacing, resolution)
        network, kept = _network(plan, len(grid)), {}

        def note(tensor, kept=kept):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            fields = network(fixed=torch.rand(1, 1, *grid), moving=torch.rand(1, 1, *grid))
        measured = sum(size for pointer, size in kept.items() if pointer not in weights) / 4
        pyramid = memory.levels(grid, plan["strides"], plan["features"], plan["blocks"], resolution)
        expected = memory.kept_by_network(pyramid, grid, 1, 3 ** len(grid))
        assert fields[0].requires_grad
        assert 0.8 < expected / measured < 1.25, (grid, expected / measured)


def _kept(plan, grid, **kwargs):
    """Numbers that the graph of a forward pass holds."""
    arguments = {"channels": 1, "ndim": 3, "strides": plan["strides"], "kernel_sizes": plan["kernel_sizes"], **kwargs}
    network = build_network("dual_pyramid", features_per_stage=plan["features"], blocks_per_stage=plan["blocks"], **arguments)
    sizes = {}

    def note(tensor):
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() / 4
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        fields = network(fixed=torch.rand(1, 1, *grid), moving=torch.rand(1, 1, *grid))
    assert fields[0].requires_grad
    return sum(sizes.values())


@pytest.mark.parametrize("changed", [{"integration_steps": 5}, {"integration_steps": 5, "inverse_consistent": True}], ids=str)
def test_what_the_decoder_does_keeps_what_the_closed_form_says(changed):
    grid = (33, 40, 27)
    plan = _plan(grid)
    pyramid = memory.levels(grid, plan["strides"], plan["features"], plan["blocks"], 2)
    more = _kept(plan, grid, **changed) - _kept(plan, grid)
    expected = memory.kept_by_network(pyramid, grid, 1, 27, **changed) - memory.kept_by_network(pyramid, grid, 1, 27)
    # the compiled warp of the CPU computes where it samples; elsewhere it is kept
    assert 0.45 < more / expected < 1.2


def test_number_of_weights_is_that_of_the_network():
    for grid, spacing, resolution in CASES:
        plan = _plan(grid, spacing, resolution)
        pyramid = memory.levels(grid, plan["strides"], plan["features"], plan["blocks"], resolution)
        kernels = [torch.Size(kernel).numel() for kernel in plan["kernel_sizes"][-len(pyramid) :]]
        expected = memory._parameters(pyramid, kernels, 1, 3 ** len(grid), len(grid))
        measured = sum(parameter.numel() for parameter in _network(plan, len(grid)).parameters())
        assert 0.85 < expected / measured < 1.15, (grid, expected / measured)


def test_grows_with_everything():
    plan = _plan((48, 40, 44))
    base = memory.training_memory_gb((48, 40, 44), channels=1, **plan)
    assert memory.training_memory_gb((48, 40, 44), channels=3, **plan) > base
    assert memory.training_memory_gb((48, 40, 44), channels=1, batch_size=2, **plan) > base
    assert memory.training_memory_gb((48, 40, 44), channels=1, **_plan((48, 40, 44), base=8)) > base
    assert memory.training_memory_gb((48, 40, 44), channels=1, similarities=["mind"], **plan) > base
    assert memory.training_memory_gb((48, 40, 44), channels=1, similarities=["lncc"], **plan) == base
