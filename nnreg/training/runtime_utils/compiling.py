"""Networks compiled by torch, and what happens where that is not possible."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


def compile_network(network: nn.Module, tell: Callable[[str], None], *, backend: str = "inductor") -> None:
    """Let a network be compiled when it is first called; its weights keep their names, and it is the same object.

    The shapes of training batches stay, so nothing is compiled for shapes that vary. Compilers fail for many reasons that lie outside of a training: no
    C++ compiler, a GPU that is too old, an operation they do not know. The first training step proves both directions. If one fails, `tell` is given a
    line, and the network goes on as it is.

    Parameters
    ----------
    network
        Called with tensors, returns tensors.
    tell
        Writes a line to the log.
    backend
        Of ``torch.compile``.
    """
    network._compiled_call_impl = _Proven(network, torch.compile(network._call_impl, backend=backend, dynamic=False), tell)


class _Proven:
    """Compiled in training, and plain in evaluation, whose grids differ from case to case. Gives way to the plain call if the first step fails."""

    def __init__(self, network: nn.Module, compiled: Callable[..., Any], tell: Callable[[str], None]) -> None:
        self.network, self.compiled, self.tell, self.works = network, compiled, tell, False

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if not (self.network.training and torch.is_grad_enabled()):
            return self.network._call_impl(*arguments, **named)
        if self.works:
            return self.compiled(*arguments, **named)
        try:
            found = self.compiled(*arguments, **named)
            self._backward(found)
        except Exception as error:
            self.network._compiled_call_impl = None
            reason = " ".join(str(error).partition(ADVICE)[0].split())[:MESSAGE]
            self.tell(f"gpu.compile: the network cannot be compiled here ({type(error).__name__}: {reason}). The training goes on without.")
            return self.network(*arguments, **named)
        self.works = True
        return found

    def _backward(self, found: Any) -> None:
        """The backward pass is compiled when it first runs, where nobody would expect it to fail."""
        total = torch.stack([output.float().sum() for output in _tensors(found)]).sum()
        torch.autograd.grad(total, [weight for weight in self.network.parameters() if weight.requires_grad], retain_graph=True, allow_unused=True)


ADVICE = "Set TORCHDYNAMO_VERBOSE"  # to developers of torch, after what went wrong
MESSAGE = 160  # characters of a compiler's message, which may be pages


def _tensors(found: Any) -> Iterator[Tensor]:
    """All that require a gradient in nested lists and dictionaries."""
    if isinstance(found, Tensor):
        if found.requires_grad:
            yield found
    elif isinstance(found, (list, tuple, dict)):
        for part in found.values() if isinstance(found, dict) else found:
            yield from _tensors(part)
