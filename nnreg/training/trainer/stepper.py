"""From a loss to changed weights: scaling, accumulation, clipping, and the moving average of the weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nnreg.planning.plans import Training


class Stepper:
    """Backward, and a step of the optimiser after every ``gradient_accumulation_steps`` batches.

    Parameters
    ----------
    network, optimizer, scaler
        What is trained.
    plan
        Accumulation and clipping.
    """

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, plan: Training) -> None:
        self.network, self.optimizer, self.scaler, self.plan = network, optimizer, scaler, plan
        self.pending = 0
        self.left_out = torch.zeros(())

    def __call__(self, loss: Tensor) -> Tensor:
        """Take a batch's loss in; the norm of the gradient before clipping where a step was made, else NaN."""
        if not self.pending:
            self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss / self.plan.gradient_accumulation_steps).backward()
        self.pending += 1
        return self.step() if self.pending == self.plan.gradient_accumulation_steps else loss.new_full((), math.nan)

    def step(self) -> Tensor:
        """Step with what has been accumulated: the mean gradient over the batches taken in so far."""
        self.scaler.unscale_(self.optimizer)
        parameters = [parameter for parameter in self.network.parameters() if parameter.grad is not None]
        if self.pending < self.plan.gradient_accumulation_steps:
            for parameter in parameters:
                parameter.grad.mul_(self.plan.gradient_accumulation_steps / self.pending)  # type: ignore[union-attr]
        norm_limit = self.plan.gradient_clip if self.plan.gradient_clip_type == "norm" else None
        norm = torch.nn.utils.clip_grad_norm_(parameters, math.inf if norm_limit is None else norm_limit)
        if self.plan.gradient_clip is not None and self.plan.gradient_clip_type == "value":
            torch.nn.utils.clip_grad_value_(parameters, self.plan.gradient_clip)
        if not self.scaler.is_enabled():  # which leaves such steps out itself, and finds its scale by them
            self._leave_out(parameters, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.pending = 0
        return norm.detach()

    def _leave_out(self, parameters: list[nn.Parameter], norm: Tensor) -> None:
        """A gradient that is not finite becomes zero, where it lies: reading it back would make a GPU wait."""
        finite = norm.isfinite()
        for parameter in parameters:
            parameter.grad = torch.where(finite, parameter.grad, 0.0)  # type: ignore[arg-type]
        self.left_out = self.left_out + (~finite).float()

    def taken_left_out(self) -> int:
        """How many steps were left out since this was last asked, because their gradient was not finite."""
        count, self.left_out = int(self.left_out), torch.zeros(())
        return count

    def finish(self) -> None:
        """At the end of an epoch whose batches did not fill the last step."""
        if self.pending:
            self.step()


def averaged_weights(network: nn.Module, optimizer: torch.optim.Optimizer, decay: float | None) -> AveragedModel | None:
    """An exponential moving average of the weights that follows every step of the optimiser, whoever makes it; None without a decay."""
    if decay is None:
        return None
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay))
    optimizer.register_step_post_hook(lambda *_: average.update_parameters(network))
    return average
