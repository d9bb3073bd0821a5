"""The paper's protocol as one job: what each of its steps leaves is what the step's own job leaves.

for each seed:  fine-tune on MVTec AD -> evaluate on each other data set;  fine-tune on VisA -> evaluate on MVTec AD

One step after the other, each with the whole cluster. A step that is whole is not done again, one that fails is named
and the others go on; the tables are written after every seed.
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from feclip.building import check_model
from feclip.cluster.evaluate import evaluate, is_evaluated
from feclip.cluster.finetune import finetune
from feclip.cluster.paths import absolute_path
from feclip.cluster.session import session, use_endpoint
from feclip.config import EvaluateConfig, ReproduceConfig
from feclip.data import check_writable, join_uri, write_bytes
from feclip.demo import DATASETS, write_dataset
from feclip.errors import ConfigError, FeclipError, RunError
from feclip.holding import holding
from feclip.reproduction import Reproduction, SeedResult, Training, check_images, find_sets, plan, read_result

__all__ = ["reproduce"]

logger = logging.getLogger(__name__)

TABLE_FILE = "table"


def reproduce(config: ReproduceConfig) -> str:
    """Do what is missing of a reproduction, print its table and return its folder.

    Raises:
        FeclipError: One line that says what is wrong; that steps failed is said after all others were done.
    """
    use_endpoint(config.cluster)
    config = _absolute(config)
    check_model(config.model)
    check_writable(config.output)
    with holding(config.output):
        roots = _generated(config) if config.dry_run else config.data.roots
        steps = plan(config, find_sets(roots))
        check_images(steps)
        found = Reproduction(config=config, results={})
        with session(config.cluster):
            for seed in dict.fromkeys(training.seed for training in steps):
                found = _with_seed(found, [training for training in steps if training.seed == seed])
                _write(found)
    logger.info("%s\n\n%s\n", config.output, found.screen())
    logger.info("Tables written to %s", join_uri(config.output, f"{TABLE_FILE}.md"))
    if found.failures:
        step, message = next(iter(found.failures.items()))
        told = "A step failed" if len(found.failures) == 1 else f"{len(found.failures)} steps failed, the first"
        msg = (
            f"{told}: {step}: {message.rstrip('.')}. {config.output} has the numbers of the others; submit the same "
            "command again for what is missing."
        )
        raise RunError(msg)
    return config.output


def _absolute(config: ReproduceConfig) -> ReproduceConfig:
    roots: dict[str, Any] = {name: absolute_path(f"data.{name}", root) for name, root in config.data.roots.items()}
    data = dataclasses.replace(config.data, **roots)
    return dataclasses.replace(config, data=data, output=absolute_path("output", config.output).rstrip("/"))


def _generated(config: ReproduceConfig) -> dict[str, str]:
    """Write the generated data sets that are not there yet, and return their folders by name."""
    folders = {name: Path(config.output, "generated", name) for name in DATASETS}
    for seed, (name, folder) in enumerate(folders.items()):
        if not folder.is_dir():
            write_dataset(folder, dataset=name, seed=seed)
    return {name: str(folder) for name, folder in folders.items()}


def _with_seed(found: Reproduction, trainings: Sequence[Training]) -> Reproduction:
    """Do the steps of one seed, and return what is known then.

    Raises:
        ConfigError: If a step is not possible as it is configured: every other one would say the same.
    """
    results: dict[tuple[str, int], SeedResult] = dict(found.results)
    failures = dict(found.failures)
    for training in trainings:
        logger.info("Reproduction: %s", training)
        try:
            finetune(training.config)
        except ConfigError:
            raise
        except FeclipError as error:
            failures[str(training)] = str(error)
            logger.error("Reproduction: %s failed: %s", training, error)  # noqa: TRY400 - written for the user
            continue
        for judging in training.judgings:
            logger.info("Reproduction: %s", judging)
            try:
                results[judging.dataset, judging.seed] = _judged(judging.config)
            except ConfigError:
                raise
            except FeclipError as error:
                failures[str(judging)] = str(error)
                logger.error("Reproduction: %s failed: %s", judging, error)  # noqa: TRY400
    return dataclasses.replace(found, results=results, failures=failures)


def _judged(config: EvaluateConfig) -> SeedResult:
    """Return what one evaluation found, which is made where it is not whole."""
    assert config.output is not None  # the plan gives each its own
    if is_evaluated(config):
        logger.info("%s is whole, nothing to do.", config.output)
    else:
        evaluate(config)
    return read_result(config.output)


def _write(found: Reproduction) -> None:
    for ending, text in (("csv", found.csv()), ("json", found.json()), ("md", found.markdown())):
        write_bytes(join_uri(found.config.output, f"{TABLE_FILE}.{ending}"), text.encode())
