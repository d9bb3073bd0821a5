"""What the first rank tells of training while it runs: progress over all epochs, and metrics."""

import contextlib
from collections.abc import Callable

from ray.experimental import tqdm_ray

from feclip.cluster.monitoring import RunTags, count_step, show_epoch
from feclip.progress import Progress
from feclip.training import Step

__all__ = ["TrainingWatch"]


class TrainingWatch(contextlib.ExitStack):
    """Takes note of each step and epoch; use it as a context.

    Args:
        tags: Of the run.
        num_epochs: Epochs of the run, those before it was resumed among them.
        draws: Whether the driver's terminal draws a bar, in place of lines.
    """

    def __init__(self, tags: RunTags, *, num_epochs: int, draws: bool) -> None:
        super().__init__()
        self._tags, self._num_epochs, self._draws = tags, num_epochs, draws
        self._advance: Callable[[], object] | None = None

    def step(self, step: Step) -> None:
        """Take note of an optimiser step."""
        count_step(self._tags, seconds=step.seconds, num_images=step.num_images, loss=step.loss)
        if self._advance is None:
            self._advance = self._progress(step)
        self._advance()

    def epoch(self, num_finished: int) -> None:
        """Take note of a finished epoch."""
        show_epoch(self._tags, num_finished=num_finished)

    def _progress(self, step: Step) -> Callable[[], object]:
        """Return what advances the progress, which begins where the run was resumed."""
        total, done = self._num_epochs * step.num_steps, step.epoch * step.num_steps + step.number - 1
        if self._draws:
            bar = tqdm_ray.tqdm(desc="Training", total=total, unit="step")
            bar.update(done)
            self.callback(bar.close)
            update: Callable[[], object] = bar.update
            return update
        return self.enter_context(Progress("Training", total, unit="steps", done=done)).advance
