"""Ray Train around :func:`feclip.training.fit`: workers, checkpoints, restarts; the loop itself knows no ray."""

import logging
import os
import tempfile
from pathlib import Path

import pyarrow.fs
import ray.train
import s3fs
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device

from feclip.bundle import Bundle, Lineage, write_bundle
from feclip.cluster.monitoring import RunTags
from feclip.cluster.training_watch import TrainingWatch
from feclip.config import FinetuneConfig
from feclip.data import is_local, join_uri
from feclip.errors import FeclipError, RunError, folded
from feclip.logs import configure_worker, fields
from feclip.training import RUN_FOLDER, TrainState, best_epoch, claimed_parent, fit_config, read_run_images

__all__ = ["bundle_of_training", "train"]

logger = logging.getLogger(__name__)

RUN_NAME = "train"  # Ray Train resumes what has the same storage path and name
PRINT_PATCH_VARIABLE = "RAY_TRAIN_ENABLE_PRINT_PATCH"  # Ray Train hands it to its workers
TUNED_FOLDER = "tuned"
KEPT_CHECKPOINTS = 2
CONTROLLER_FAILURES = 3


def bundle_of_training(config: FinetuneConfig) -> str:
    """Return where training writes its bundle: the output, or below it where the guard has to see a bundle first."""
    return config.output if config.parent is None else join_uri(config.output, RUN_FOLDER, TUNED_FOLDER)


def train(config: FinetuneConfig, *, progress: bool, parent_id: str | None = None) -> None:
    """Train on the cluster until the bundle is written; goes on from the last checkpoint in the output.

    Args:
        config: The run, with absolute paths.
        progress: Whether to draw a bar of the steps.
        parent_id: ``model_id`` of the parent that is tuned.

    Raises:
        RunError: If training failed for good, in one line with its cause.
    """
    if progress:
        os.environ[PRINT_PATCH_VARIABLE] = "0"  # the bar reaches the driver as printed lines, which Ray would log away
    path, filesystem = _train_storage(join_uri(config.output, RUN_FOLDER))
    trainer = _Trainer(
        _worker,
        train_loop_config={
            "config": config,
            "parent_id": parent_id,
            "progress": progress,
            "tags": RunTags.of("finetune"),
        },
        scaling_config=ScalingConfig(num_workers=config.cluster.num_workers, use_gpu=config.cluster.use_gpu),
        run_config=RunConfig(
            name=RUN_NAME,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(
                max_failures=config.cluster.max_failures, controller_failure_limit=CONTROLLER_FAILURES
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=KEPT_CHECKPOINTS),
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise RunError(_cause(error)) from error
    if result.return_value:
        raise RunError(str(result.return_value))


class _Trainer(TorchTrainer):  # type: ignore[misc]  # Ray has no types for it
    """Ray Train's, without its handler of interrupts: Python's raises, and the end of the session ends the workers.

    Ray Train's aborts the run from within the handler, asks for an exit as if all had gone well, and stays when the run
    has ended: what interrupts the program later would be sent to a controller that is gone.
    """

    def _register_sigint_handler(self, controller: object) -> None:  # Ray is pinned exactly; held by test_interrupt.py
        pass


def _worker(loop: dict[str, object]) -> str | None:
    """Run on each worker: build, fit, and on rank 0 write the bundle.

    Returns:
        The message of an error that every rank has met alike and that a restart would meet again, or None.
    """
    config, tags, parent_id = loop["config"], loop["tags"], loop["parent_id"]
    assert isinstance(config, FinetuneConfig)
    assert isinstance(tags, RunTags)
    assert parent_id is None or isinstance(parent_id, str)
    rank = ray.train.get_context().get_world_rank()
    configure_worker(speaks=rank == 0, rank=rank)
    torch.manual_seed(config.seed * ray.train.get_context().get_world_size() + rank)
    images = read_run_images(config.output)
    try:
        parent = claimed_parent(config, model_id=parent_id)
        with TrainingWatch(tags, num_epochs=config.optim.epochs, draws=bool(loop["progress"])) as watch:
            model, state = fit_config(
                config,
                images=images,
                parent=parent,
                device=get_device(),
                state=_last_state(),
                on_epoch=lambda state: _report(state, epochs=config.optim.epochs, watch=watch),
                on_step=watch.step if rank == 0 else lambda _: None,
            )
    except RunError as error:
        return str(error)
    if rank == 0:
        lineage = None if parent is None else _lineage(parent, state=state)
        uri = bundle_of_training(config)
        write_bundle(uri, model=model, config=config, images=images, metrics=state.metrics, lineage=lineage)
    return None


def _lineage(parent: Bundle, *, state: TrainState) -> Lineage:
    """Return the lineage of a tuned bundle that the guard has not seen."""
    assert state.before is not None
    return Lineage(
        parent=parent.uri,
        parent_id=parent.model_id,
        epoch=best_epoch(state.before, state.metrics),
        before=state.before,
        domains=(),
    )


def _last_state() -> TrainState | None:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return TrainState.load(Path(folder))


def _report(state: TrainState, *, epochs: int, watch: TrainingWatch) -> None:
    """Log one line and keep the state; a barrier for all ranks, of which rank 0 alone carries the checkpoint."""
    record = state.metrics[-1]
    shown = " ".join(f"{name} {value:.4f}" for name, value in record.items() if name != "epoch")
    logger.info("epoch %d/%d: %s", state.epoch, epochs, shown, extra=fields(**record))
    if ray.train.get_context().get_world_rank() > 0:
        ray.train.report(record)
        return
    watch.epoch(state.epoch)
    with tempfile.TemporaryDirectory() as folder:
        state.save(Path(folder))
        ray.train.report(record, checkpoint=Checkpoint.from_directory(folder))


def _train_storage(uri: str) -> tuple[str, pyarrow.fs.FileSystem | None]:
    """Return the path and filesystem for Ray Train's folder.

    Object storage goes through s3fs, like everything else: keys and endpoint come from the standard environment
    variables of each process. pyarrow's own client uploads about twice as fast (ray-project/ray#38695) but fails
    against servers that answer its folder markers and multipart uploads differently (docs/adr/0009).
    """
    if is_local(uri):
        return uri, None
    return uri.removeprefix("s3://"), pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(s3fs.S3FileSystem()))


def _cause(error: ray.train.TrainingFailedError) -> str:
    """Return the line of the first worker's error that is written for users, or else of the first error."""
    failures = list(getattr(error, "worker_failures", {}).values()) or [error]
    causes = [getattr(failure, "cause", failure) for failure in failures]
    chosen = next((cause for cause in causes if isinstance(cause, FeclipError)), causes[0])
    text = str(chosen) if isinstance(chosen, FeclipError) else f"{type(chosen).__name__}: {chosen}"
    return f"Training failed: {folded(text)}"
