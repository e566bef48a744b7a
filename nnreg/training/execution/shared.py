"""What a training must be like for several processes to share it, and how they come together."""

from __future__ import annotations

from torch import nn

from nnreg.errors import ConfigurationError
from nnreg.losses.ranks import unsplittable
from nnreg.training.distributed import told
from nnreg.training.trainer.trainer import nnRegTrainer


def check_shareable(trainer: nnRegTrainer, processes: int) -> None:
    """Refuse a training whose result would not be that of one process.

    Parameters
    ----------
    trainer
        An nnRegTrainer; its network is looked at if it was initialised.
    processes
        How many.

    Raises
    ------
    ConfigurationError
        Smaller batches than processes, steps or losses that nothing is known of, batch normalisation.
    """
    batch_size = trainer.plan.batch_size
    if batch_size < processes:
        raise ConfigurationError(
            f"a batch of {batch_size} cannot be shared by {processes} processes. Use {batch_size} or fewer, or larger batches (--set batch_size={processes})."
        )
    if type(trainer).train_step is not nnRegTrainer.train_step:
        raise ConfigurationError(f"trainer {trainer.name} has a train_step of its own, whose gradients nobody would share. Train with one process.")
    losses = unsplittable(trainer.objective if trainer.initialized else trainer._build_loss())
    if losses:
        raise ConfigurationError(
            f"loss {', '.join(losses)}: of parts of a batch it is not known to give what the whole batch gives. Train with one process, take another loss, "
            "or if it is a mean over samples give it the attribute splits_over_ranks = True."
        )
    modules = trainer.network.modules() if trainer.initialized else ()
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in modules):
        raise ConfigurationError("the network has batch normalisation, whose statistics would be those of parts. Use instance normalisation or one process.")


def join(trainer: nnRegTrainer) -> None:
    """Check a trainer that shares its training, then join the other processes.

    Raises
    ------
    ConfigurationError
        See :func:`check_shareable`; nothing has been written yet.
    LostProcessError
        If the others do not come.
    """
    trainer.initialize()
    check_shareable(trainer, trainer.ranks.size)
    with told():
        trainer.ranks.connect(trainer.device)
