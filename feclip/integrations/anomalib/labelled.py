"""A data module of anomalib whose test images with masks train, as FE-CLIP's adapters need them.

anomalib's own data modules train on normal images alone. This one reads the same MVTec layout, divides it as a
fine-tuning job does (`feclip.data.assign_splits`: same seed, same splits), and trains on defects and their masks.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow.compute as pc
from anomalib import TaskType
from anomalib.data import AnomalibDataModule, AnomalibDataset
from anomalib.data.utils import LabelName
from lightning.pytorch.utilities.types import EVAL_DATALOADERS

from feclip.building import read_labelled
from feclip.config import DataConfig, Names, Protocol, Shares
from feclip.data import Split, is_local, local_path
from feclip.errors import ConfigError

__all__ = ["LabelledMVTec"]

_SPLITS = {"train": Split.TRAIN, "val": Split.HELD_OUT, "test": Split.REPORT}
_FRACTIONS = (0.6, 0.2, 0.2)


class LabelledMVTec(AnomalibDataModule):  # type: ignore[misc] # anomalib is not typed
    """Test images of an MVTec folder: all of them train, or a part of them is held out.

    Args:
        root: Local folder that holds the categories.
        categories: Names of those to read; None for all.
        protocol: ``a``: all test images train, and none is left to validate or test on. ``b``: they are divided by
            ``fractions`` into those that train, validate (held out) and test (report).
        fractions: Shares of train, held out and report under protocol b; they sum to 1.
        seed: Chooses among the images; give `FeClip` the same, since a bundle records one.
        train_batch_size: Images per step.
        eval_batch_size: Images per forward pass of validation and test.
        num_workers: Processes that read images, of each loader.

    Raises:
        ConfigError: If the root is no local folder.
        DataError: If the folder is not what it must be; at ``setup``.
        ValueError: If the protocol is unknown or the fractions are out of range.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        categories: Sequence[str] | None = None,
        protocol: str = "a",
        fractions: Sequence[float] = _FRACTIONS,
        seed: int = 0,
        train_batch_size: int = 16,
        eval_batch_size: int = 16,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            train_batch_size=train_batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed
        )
        if not is_local(str(root)):
            msg = f"root must be a local folder, since anomalib opens its images by path; got {root}."
            raise ConfigError(msg)
        if protocol not in list(Protocol):
            msg = f"protocol must be a (all test images train) or b (a part is held out), got {protocol!r}."
            raise ConfigError(msg)
        self.root = Path(root).resolve()
        self.data_config = DataConfig(
            root=str(self.root),
            categories=None if categories is None else Names(categories),
            protocol=Protocol(protocol),
            fractions=Shares(fractions),
        )
        """Which images these are, as a bundle records it."""
        self._category = "" if categories is None or len(categories) != 1 else categories[0]

    @property
    def category(self) -> str:
        """The category, where there is one alone."""
        return self._category

    def _setup(self, _stage: str | None = None) -> None:
        assert self.seed is not None
        table = read_labelled(self.data_config, seed=self.seed)
        for name, split in _SPLITS.items():
            rows = table.filter(pc.field("split") == split.value).to_pylist()
            setattr(self, f"{name}_data", _Labelled(rows, split=name) if rows else None)

    def _create_test_split(self) -> None:
        """Nothing: the splits are those of `_setup`."""

    def _create_val_split(self) -> None:
        """Nothing: the splits are those of `_setup`."""

    def val_dataloader(self) -> EVAL_DATALOADERS:
        """Return the loader of the images held out; none under protocol a."""
        return [] if self.val_data is None else super().val_dataloader()

    def test_dataloader(self) -> EVAL_DATALOADERS:
        """Return the loader of the images to report on.

        Raises:
            ConfigError: If there are none.
        """
        if self.test_data is None:
            msg = "Protocol a trains on all test images and leaves none to test on: take protocol b, or other data."
            raise ConfigError(msg)
        return super().test_dataloader()


class _Labelled(AnomalibDataset):  # type: ignore[misc]
    """Images with labels and masks, from the rows of a manifest."""

    def __init__(self, rows: list[dict[str, object]], *, split: str) -> None:
        super().__init__()
        found = pd.DataFrame(
            {
                "image_path": [str(local_path(str(row["uri"]))) for row in rows],
                "split": split,
                "label": ["abnormal" if row["label"] else "normal" for row in rows],
                "label_index": [LabelName.ABNORMAL if row["label"] else LabelName.NORMAL for row in rows],
                "mask_path": ["" if row["mask_uri"] is None else str(local_path(str(row["mask_uri"]))) for row in rows],
            }
        )
        found["label_index"] = found["label_index"].astype(int)
        found.attrs["task"] = TaskType.SEGMENTATION.value
        self.samples = found
