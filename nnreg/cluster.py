"""Workers of a Dask cluster for everything that goes case by case; the package ``distributed`` is needed here alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pickle import HIGHEST_PROTOCOL, dumps, loads
from typing import TYPE_CHECKING, Any

from nnreg.errors import ConfigurationError
from nnreg.parallel import guarded, on_workers_of, one_thread_each

if TYPE_CHECKING:
    from distributed import Client

LOCAL = "local"
PATIENCE = 30.0  # seconds until a scheduler must answer and a first worker be there


class _Workers:
    """The workers that a scheduler knows; see :class:`nnreg.parallel.Executor`."""

    def __init__(self, client: Client) -> None:
        from distributed import KilledWorker

        self._client, self._futures, self.died = client, client.get_executor(pure=False), KilledWorker

    @property
    def workers(self) -> int:
        return len(self._client.scheduler_info(n_workers=-1)["workers"])

    def shared(self, work: Callable[[Any], Any]) -> Any:
        """The work as the result of a task: workers hand it on to each other, and it is made again where all that had it died."""
        return self._client.submit(loads, dumps(work, HIGHEST_PROTOCOL), pure=False)

    def submit(self, shared: Any, item: Any, name: str) -> Future[Any]:
        """Hand out an item; one whose worker dies goes to another worker, three times at most."""
        return self._futures.submit(_on_worker, shared, item, name)


def _on_worker(work: Callable[[Any], Any], item: Any, name: str) -> Any:
    one_thread_each()
    return guarded(work, item, name)


@contextlib.contextmanager
def on_cluster(address: str, processes: int) -> Iterator[None]:
    """Everything in the block that goes case by case is done by the workers of a Dask cluster.

    Parameters
    ----------
    address
        Of a scheduler, ``tcp://HOST:8786``, or ``local``: a scheduler and `processes` workers on this machine, which end with the block.
    processes
        Workers of a local cluster.

    Raises
    ------
    ConfigurationError
        If ``distributed`` is not installed, the scheduler does not answer, or has no workers.
    """
    with _client(address, processes) as client, on_workers_of(_Workers(client)):
        yield


@contextlib.contextmanager
def _client(address: str, processes: int) -> Iterator[Client]:
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise ConfigurationError("--dask: the package distributed is not installed. Run pip install 'nnreg[dask]'.") from error
    with contextlib.ExitStack() as stack:
        if address == LOCAL:
            # reached from this machine alone
            there: Any = stack.enter_context(LocalCluster(n_workers=processes, threads_per_worker=1, dashboard_address="127.0.0.1:0", host="127.0.0.1"))
        else:
            there = address
        try:
            client = stack.enter_context(Client(there, timeout=PATIENCE))
            client.wait_for_workers(1, timeout=PATIENCE)
        except (OSError, TimeoutError, ValueError) as error:
            raise ConfigurationError(
                f"--dask {address}: no scheduler with workers answers ({type(error).__name__}). Start dask scheduler and dask worker, or use --dask local."
            ) from error
        yield client
