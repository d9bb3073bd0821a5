"""What a scoring job would take, from rates that are measured on the machine it is asked on; no cluster is started."""

import dataclasses
import os

import torch

from feclip.archive import Source, start_up_line
from feclip.archive.measuring import measure_stages
from feclip.bundle import Bundle
from feclip.config import ScoreConfig
from feclip.planning import model_rates, plan_text
from feclip.scoring import Scorer

__all__ = ["plan"]


def plan(bundle: Bundle, *, config: ScoreConfig) -> str:
    """Measure the stages on a sample of the archive and return the plan as text; nothing is written.

    The model is measured on a GPU if actors ask for one and this machine has one, else on the CPU, and says so.

    Args:
        bundle: What scores.
        config: The job, its paths absolute.

    Raises:
        FeclipError: One line that says what is wrong.
    """
    score, planning = config.score, config.planning
    on_gpu = score.gpus_per_actor > 0 and torch.cuda.is_available()
    source = Source(archive=config.archive, manifest=config.manifest, listing=config.listing).identified()
    measured = measure_stages(
        bundle,
        source,
        num_images=planning.sample_size,
        num_readers=score.num_readers,
        make_scorer=lambda bundle: Scorer.configured(bundle, score, on_gpu=on_gpu, max_batch_size=planning.sample_size),
    )
    models = model_rates(
        measured.model_images_per_second,
        gpu_name=torch.cuda.get_device_name() if on_gpu else None,
        given=planning.gpu_images_per_second,
    )
    left_out = f", {measured.num_left_out} more could not be read or decoded" if measured.num_left_out else ""
    head = (
        f"Plan for {config.manifest or config.archive}, measured on this machine ({os.cpu_count()} cores) by "
        f"{measured.num_images} of its images of {measured.times.num_bytes / 1e6:.3g} MB each{left_out}.\n"
        f"Model {start_up_line(dataclasses.asdict(measured.start_up))}.\n\n"
    )
    return head + plan_text(
        measured.times,
        models,
        num_readers=score.num_readers,
        num_images=planning.num_images,
        cores_per_actor=planning.cores_per_actor,
        price_per_hour=planning.price_per_hour,
    )
