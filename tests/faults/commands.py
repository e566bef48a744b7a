"""Commands that are killed: each in a forked process of its own, so that every moment of it is at work and none at importing."""

from __future__ import annotations

import importlib
import os
import resource
import shutil
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

PATIENCE = 1800.0  # seconds until a command that hangs is given up
LOADED = (
    *("torch", "torch._dynamo", "torch.utils.data", "numba", "scipy.optimize", "scipy.linalg", "scipy.stats", "SimpleITK", "blosc2", "h5py"),
    *("matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.font_manager", "PIL.Image"),
    *("nnreg.kernels.field_cpu", "nnreg.kernels.linear_cpu", "nnreg.engine.affine", "nnreg.inference.registration.register"),
    *("nnreg.training.execution.run", "nnreg.inference.registration.predict", "nnreg.evaluation.registration.folder", "nnreg.groups.fusion.labelling"),
)


@dataclass
class Stage:
    """A command, and what is said besides to go on with it."""

    name: str
    arguments: list[str]
    go_on: list[str] = field(default_factory=list)


def stages(root: Path, raw: Path) -> list[Stage]:
    """What a user does, in this order; each begins with what those before have left."""
    where, out = ["--workspace", str(root)], root / "out"
    images, few = raw / "imagesTs", ["-np", "1", "--no_pbar", "--workspace", str(root)]
    first, second = sorted(images.iterdir())[:2]
    predict = ["predict", "-i", str(images), "-o", str(out / "predicted"), "-d", "4", "-c", "2d", "-f", "0", "-device", "cpu", "--no_refinement", "--no_report"]
    length = ["--epochs", "3", "--iterations_per_epoch", "2", "-device", "cpu", "--quiet", "--no_report"]
    fuse = ["fuse", "-i", str(root / "one"), "--atlases", str(root / "atlases" / "imagesTr"), "-o", str(out / "fused"), "--preset", "fast", "-np", "1", "-q"]
    return [
        Stage("plan", ["extract_fingerprint", "-d", "4", "--pair_budget", "0", *few]),
        # planned as for a GPU: how fast this machine trains is measured once, and differs from run to run
        Stage("preprocess", ["plan_and_preprocess", "-d", "4", "--pair_budget", "0", "-device", "cuda", *few]),
        Stage("train", ["train", "4", "2d", "0", *length, *where], ["-c"]),
        Stage("predict", [*predict, *where], ["--continue_prediction"]),
        Stage("evaluate", ["evaluate", str(out / "predicted"), "-d", "4", "-np", "1", *where]),
        Stage("register", ["register", str(first), str(second), "-o", str(out / "pair"), "--preset", "fast", "-q"]),
        Stage("fuse", [*fuse, "--save_transforms", "--probabilities", "--keep_warped"]),
    ]


def write_images(root: Path, raw: Path) -> None:
    """Eight training and two test images of two axes, a pair a person; one of them again with two atlases to label it by."""
    from tests.tiny import oblique_space, write_case, write_dataset

    subjects = {f"s{k}_{scan}": f"s{k}" for k in range(5) for scan in "ab"}
    grids = {case: oblique_space((22 + int(subject[1]), 27 - int(subject[1])), int(subject[1])) for case, subject in subjects.items()}
    training, testing = ({case: grid for case, grid in grids.items() if (subjects[case] == "s4") == held_out} for held_out in (False, True))
    write_dataset(raw, training, test_spaces=testing, pairing="groups", groups=subjects)
    for seed, case in enumerate(("s0_a", "s1_a")):
        write_case(root / "atlases", case, grids[case], seed)
    (root / "one").mkdir()
    shutil.copy(raw / "imagesTs" / "s4_a_0000.nii.gz", root / "one")


def load() -> None:
    """Import what the commands need, without using it: what was computed with cannot be forked."""
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    modules = ("extract_fingerprint", "plan_and_preprocess", "train", "predict", "evaluate", "register", "fuse")
    for name in (*LOADED, *(f"nnreg.cli.{module}" for module in modules)):
        importlib.import_module(name)


def start(arguments: list[str], log: Path, largest: int | None = None) -> int:
    """The number of the process, and of its group, that runs a command; what it tells goes into `log`, and no file of it may grow beyond `largest` bytes."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        if largest is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
        module, *rest = arguments
        code = importlib.import_module(f"nnreg.cli.{module}").main(rest)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def processor_seconds(child: int) -> float:
    """Of a process so far."""
    fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def finished(stage: Stage, log: Path, *more: str) -> float:
    """Run a command to its end; its processor seconds."""
    child = start([*stage.arguments, *more], log)
    given_up = threading.Timer(PATIENCE, os.killpg, (child, signal.SIGKILL))
    given_up.start()
    _, status, used = os.wait4(child, 0)
    given_up.cancel()
    if os.waitstatus_to_exitcode(status) != 0:
        told = log.read_text(errors="replace").strip()[-600:]
        raise RuntimeError(f"{stage.name} {' '.join(more)}: exit code {os.waitstatus_to_exitcode(status)}: {told}")
    return used.ru_utime + used.ru_stime


def killed(stage: Stage, log: Path, after: float, pause: float) -> bool:
    """Kill a command and all that it started once it has used some processor seconds; whether it was still running.

    It is killed `pause` seconds later, so that it may also be waiting for a disk.
    """
    child = start(stage.arguments, log)
    if half_done(child, after):
        time.sleep(pause)
    if os.waitpid(child, os.WNOHANG)[0]:
        return False
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def ended(child: int) -> int:
    """The exit code of a process, once it has ended."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def half_done(child: int, after: float) -> bool:
    """Wait until a process has used some processor seconds; whether it still runs."""
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if processor_seconds(child) >= after:
            return True
        time.sleep(0.002)
    return False
