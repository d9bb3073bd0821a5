"""A bundle that scores images in this process, by the steps of a scoring job."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePath
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa

from feclip.archive import partitions
from feclip.bundle import Bundle, read_bundle
from feclip.calibration import Statistic, decide
from feclip.data import FetchedImage, GuardedDecoder, PreparedImage, fetch_and_decode
from feclip.errors import DataError, one_line
from feclip.prediction.prediction import FailedPrediction, Prediction

__all__ = ["NamedImage", "Predictor", "named_image"]

BATCH_SIZE = 16
NUM_READERS = 8


class NamedImage(NamedTuple):
    """An image, and what is known about it before it is read."""

    uri: str
    columns: Mapping[str, str | None]
    """Further columns of its row, among them those of the groups that have thresholds or nouns of their own."""
    size: int | None = None
    """Bytes, by a listing."""


class Predictor:
    """A bundle's model on a device, ready for images.

    Scores are those of a scoring job. To the last bit they agree on one device at one number of images in a forward
    pass and of threads; else up to rounding.

    Args:
        bundle: The bundle; its backbone is loaded here, once.
        device: ``cpu``, ``cuda``, or ``auto``: a GPU if this process sees one.
        precision: Number format of the trunk: ``auto``, ``float32`` or ``bfloat16``.
        batch_size: Images in one forward pass, at least 1.
        pretrained: Weight file or tag of the backbone instead of the recorded one; the same weights.

    Raises:
        BundleError: If the backbone does not fit the bundle.
        ConfigError: If there is no such device, an option is out of range, or weights cannot be had.

    Example:
        ::

            with Predictor.load("/runs/calibrated") as predictor:
                predictor.predict("image.jpg").save("out.png")
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str = "auto",
        precision: str = "auto",
        batch_size: int = BATCH_SIZE,
        pretrained: str | None = None,
    ) -> None:
        from feclip.building import find_device  # noqa: PLC0415 - as below
        from feclip.scoring import Scorer  # noqa: PLC0415 - whoever only imports this does without torch: docs/adr/0020

        self.bundle = bundle
        self._batch_size = batch_size
        self._statistics = bundle.statistic_options
        self._scorer = Scorer(
            bundle,
            device=find_device(device),
            precision=precision,
            pretrained=pretrained,
            batch_size=batch_size,
            max_batch_size=batch_size,
            topk_fraction=self._statistics.topk_fraction,
            smoothing_sigma=self._statistics.smoothing_sigma,
        )
        self._decoder = GuardedDecoder(bundle.input_options)

    @classmethod
    def load(
        cls,
        uri: str | PurePath,
        *,
        device: str = "auto",
        precision: str = "auto",
        batch_size: int = BATCH_SIZE,
        pretrained: str | None = None,
    ) -> Self:
        """Read a bundle and make its model ready.

        Args:
            uri: Folder or ``s3://`` prefix of the bundle.
            device: As for the class.
            precision: As for the class.
            batch_size: As for the class.
            pretrained: As for the class.

        Raises:
            BundleError: If there is none, or it is not whole.
            ConfigError: As for the class.
            StorageError: If storage fails.
        """
        bundle = read_bundle(str(uri))
        return cls(bundle, device=device, precision=precision, batch_size=batch_size, pretrained=pretrained)

    @property
    def decides_on(self) -> tuple[Statistic, ...]:
        """Statistics that a label rests on; none where the bundle has no thresholds."""
        calibration = self.bundle.calibration
        return () if calibration is None else calibration.decision.statistics

    def predict(self, image: str | PurePath) -> Prediction:
        """Score one image.

        Args:
            image: Local path or ``s3://`` URI. Its ``key=value`` folders tell its group, where groups have thresholds
                or nouns of their own.

        Raises:
            DataError: If it cannot be read or decoded, or there is no threshold for its group.
            StorageError: If storage fails.
        """
        (found,) = self.predict_all([image])
        if isinstance(found, FailedPrediction):
            raise found.error
        return found

    def predict_all(self, images: Iterable[str | PurePath | NamedImage]) -> Iterator[Prediction | FailedPrediction]:
        """Score images, batch by batch; one that is bad holds up no other.

        Args:
            images: As for `predict`; may be endless.

        Yields:
            What came of each image, in their order.

        Raises:
            StorageError: If storage fails.
        """
        named = (image if isinstance(image, NamedImage) else named_image(str(image)) for image in images)
        while batch := list(itertools.islice(named, self._batch_size)):
            yield from self._predicted(batch)

    def close(self) -> None:
        """End the process that decodes; a later prediction starts another."""
        self._decoder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _predicted(self, batch: list[NamedImage]) -> Iterator[Prediction | FailedPrediction]:
        with ThreadPoolExecutor(NUM_READERS) as pool:
            fetched = list(pool.map(self._fetch, batch))
        errors = [found.error or self._group_error(image) for image, found in zip(batch, fetched, strict=True)]
        scored = [index for index, error in enumerate(errors) if error is None]
        prepared = [image for image in (fetched[index].image for index in scored) if isinstance(image, PreparedImage)]
        size = self._scorer.image_size
        pixels = np.stack([image.pixels for image in prepared]) if prepared else np.zeros((0, size, size, 3), np.uint8)
        valid = np.stack([image.valid_pixels() for image in prepared]) if prepared else np.zeros(pixels.shape[:3], bool)
        groups, nouns = (
            None if column is None else [batch[index].columns.get(column) for index in scored]
            for column in (self._scorer.group_column, self._scorer.noun_column)
        )
        scores = self._scorer.score(pixels, valid, groups, nouns=nouns)
        rows = zip(scores.rows(), scores.token_map, strict=True)
        for image, found, failure in zip(batch, fetched, errors, strict=True):
            if failure is not None:
                yield FailedPrediction(uri=image.uri, error=failure)
                continue
            row, token_map = next(rows)
            try:
                yield self._prediction(image, found, row | {"token_map": token_map.copy()})
            except DataError as error:  # no threshold for its group
                told = DataError(f"Cannot decide on {one_line(image.uri)}: {error}")
                yield FailedPrediction(uri=image.uri, error=told)

    def _group_error(self, image: NamedImage) -> DataError | None:
        column = self._scorer.group_column
        reason = None if column is None else self._scorer.group_error(image.columns.get(column))
        return None if reason is None else DataError(f"Cannot score {one_line(image.uri)}: {reason}")

    def _fetch(self, image: NamedImage) -> FetchedImage:
        return fetch_and_decode(image.uri, decoder=self._decoder, size=image.size)

    def _prediction(self, image: NamedImage, found: FetchedImage, row: dict[str, Any]) -> Prediction:
        assert isinstance(found.image, PreparedImage)
        assert found.sha256 is not None
        label, thresholds, pixel_threshold = self._decided(image, row)
        return Prediction(
            uri=image.uri,
            sha256=found.sha256,
            width=found.image.width,
            height=found.image.height,
            label=label,
            thresholds=thresholds,
            pixel_threshold=pixel_threshold,
            valid_box=found.image.valid_box,
            valid_mask=found.image.valid_mask,
            options=self.bundle.input_options,
            smoothing_sigma=self._statistics.smoothing_sigma,
            **row,
        )

    def _decided(self, image: NamedImage, row: Mapping[str, Any]) -> tuple[str | None, dict[str, float], float | None]:
        """Return an image's label, the thresholds it rests on, and that of the map's pixels."""
        calibration = self.bundle.calibration
        if calibration is None:
            return None, {}, None
        group = None if calibration.threshold_by is None else image.columns.get(calibration.threshold_by)
        columns: dict[str, pa.Array] = {"model_id": pa.array([self.bundle.model_id])}
        columns |= {name: pa.array([row[name]], pa.float32()) for name in Statistic}
        if calibration.threshold_by is not None:
            if group is None:
                msg = (
                    f"it has no {calibration.threshold_by}, by which the bundle's thresholds are told apart; "
                    f"name it in the path, as in {calibration.threshold_by}=<value>/image.jpg."
                )
                raise DataError(msg)
            columns[calibration.threshold_by] = pa.array([group])
        decided = decide(pa.table(columns), calibration, statistic_options=self._statistics)
        label = "anomalous" if decided["pred_label"][0].as_py() else "normal"
        thresholds = {str(statistic): calibration.threshold(statistic, group) for statistic in self.decides_on}
        level = (calibration.decision.threshold_percentile, calibration.decision.variant)
        of_pixels = calibration.group(group).statistics[Statistic.map_max].find(*level)
        return label, thresholds, None if of_pixels is None else of_pixels.value


def named_image(uri: str) -> NamedImage:
    """Return an image that is known by its name alone: its ``key=value`` folders are its columns.

    Example:
        >>> named_image("s3://plant/line=3/a.png").columns
        {'line': '3'}
    """
    return NamedImage(uri=uri, columns=partitions(uri))
