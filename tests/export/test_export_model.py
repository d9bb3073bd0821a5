"""What an exported file computes, before there is a file: the scores of a scoring job."""

import dataclasses

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch

from feclip.bundle import Bundle, read_bundle
from feclip.calibration import CalibrationOptions, StatisticOptions, calibrate
from feclip.data import InputOptions
from feclip.errors import RunError
from feclip.export import OUTPUT_NAMES, ExportedModel
from feclip.export.agreement import compare
from feclip.export.images import drawn_inputs
from feclip.export.recipe import recipe_of
from feclip.export.runner import Arrays
from feclip.model import num_top_pixels
from feclip.scoring import Scorer


@pytest.fixture(scope="module")
def found(demo_bundle: str) -> Bundle:
    return read_bundle(demo_bundle)


@pytest.fixture(scope="module")
def model(found: Bundle) -> ExportedModel:
    return ExportedModel(found.build(), statistic_options=found.statistic_options)


def test_scores_are_those_of_a_scoring_job_to_the_last_bit(found: Bundle, model: ExportedModel) -> None:
    options = found.statistic_options
    scorer = Scorer(
        found,
        device="cpu",
        precision="float32",
        batch_size=5,
        max_batch_size=5,
        topk_fraction=options.topk_fraction,
        smoothing_sigma=options.smoothing_sigma,
    )
    pixels, valid = (np.stack(arrays) for arrays in zip(*drawn_inputs(found.input_options, num=5), strict=True))
    scores = scorer.score(pixels, valid)
    with torch.no_grad():
        outputs = model(torch.from_numpy(pixels), torch.from_numpy(valid))
    assert tuple(outputs) == OUTPUT_NAMES
    for name in ("image_logit", "map_max", "map_topk_mean"):
        np.testing.assert_array_equal(outputs[name].numpy(), getattr(scores, name))
    np.testing.assert_array_equal(outputs["token_map"].half().numpy(), scores.token_map)


def test_the_number_of_highest_pixels_is_looked_up_exactly(model: ExportedModel) -> None:
    fraction = model.statistic_options.topk_fraction
    for number in (1, 20, 21, 5000, 112 * 112):
        assert model.top_counts[number] == num_top_pixels(number, topk_fraction=fraction)


def test_drawn_pictures_have_padding_on_all_sides_and_are_the_same_again() -> None:
    first, again = (list(drawn_inputs(InputOptions(image_size=64), num=14)) for _ in range(2))
    assert all(np.array_equal(one[0], other[0]) for one, other in zip(first, again, strict=True))
    valid = np.stack([valid for _, valid in first])
    assert valid.all(axis=(1, 2)).any()
    assert (~valid[:, 0, 32]).any()  # above
    assert (~valid[:, 32, 0]).any()  # at the left
    assert len({pixels.tobytes() for pixels, _ in first}) == 14


class Told:
    """Runs the model itself, and changes what it says."""

    def __init__(self, model: ExportedModel, **changes: object) -> None:
        self._model, self._changes = model, changes

    def __call__(self, *, pixels: npt.NDArray[np.uint8], valid_pixels: npt.NDArray[np.bool_]) -> Arrays:
        """Score a batch."""
        with torch.no_grad():
            found = self._model(torch.from_numpy(pixels), torch.from_numpy(valid_pixels))
        arrays = {name: tensor.numpy() for name, tensor in found.items()}
        for name, change in self._changes.items():
            arrays[name] = change(arrays[name])  # type: ignore[operator]
        return arrays


def test_equal_outputs_agree_and_the_last_batch_is_filled(found: Bundle, model: ExportedModel) -> None:
    inputs = drawn_inputs(found.input_options, num=5)
    agreement = compare(Told(model), model, inputs, num=5, batch_size=3, tolerance=1e-4)
    assert agreement.num_images == 5
    assert agreement.differences == dict.fromkeys(OUTPUT_NAMES, 0.0)
    assert len(agreement.seconds) == len(agreement.torch_seconds) == 2
    assert agreement.text().startswith("5 images agree with PyTorch (largest differences: image_logit 0.0e+00, ")


def test_a_model_without_a_finite_score_is_refused(found: Bundle) -> None:
    broken = found.build()
    with torch.no_grad():
        broken.text_embeddings.fill_(torch.nan)
    model = ExportedModel(broken, statistic_options=found.statistic_options)
    inputs = drawn_inputs(found.input_options, num=1)
    with pytest.raises(RunError, match="gives an image_logit that is not finite; train again"):
        compare(Told(model), model, inputs, num=1, batch_size=1, tolerance=1e-4)


def _off(value: float) -> object:
    return lambda array: array + np.float32(value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_logit": _off(3e-4)}, "by 0.0003 in image_logit, more than tolerance 0.0001"),
        ({"token_map": _off(3e-4)}, "in token_map"),
        ({"map_max": _off(-3e-4)}, "in map_max"),
        ({"map_topk_mean": _off(3e-4)}, "in map_topk_mean"),
        ({"token_map": np.nan_to_num}, "by inf in token_map"),
        ({"image_logit": lambda array: array * np.nan}, "by inf in image_logit"),
        ({"map_max": lambda array: array[:1]}, r"returns float32 of \(1,\) for map_max, PyTorch float32 of \(2,\)"),
        ({"image_logit": lambda array: array.astype(np.float64)}, r"returns float64 of \(2,\) for image_logit"),
    ],
)
def test_what_differs_is_named(found: Bundle, model: ExportedModel, changes: dict[str, object], message: str) -> None:
    inputs = drawn_inputs(found.input_options, num=2)
    with pytest.raises(RunError, match=message):
        compare(Told(model, **changes), model, inputs, num=2, batch_size=2, tolerance=1e-4)


@pytest.mark.parametrize(
    ("rule", "anomalous_if"), [("image", "all"), ("pixel", "all"), ("either", "any"), ("both", "all")]
)
def test_a_recipe_says_by_which_thresholds_a_group_is_decided(found: Bundle, rule: str, anomalous_if: str) -> None:
    logits = np.linspace(-1, 1, 60, dtype=np.float32)
    columns = dict.fromkeys(("image_logit", "map_max", "map_topk_mean"), logits)
    table = pa.table({"model_id": [found.model_id] * 60, **columns, "line": ["1", "2"] * 30})
    options = CalibrationOptions(percentiles=("50",), rule=rule, threshold_by="line")  # type: ignore[arg-type]
    statistic_options = StatisticOptions(topk_fraction=0.2, smoothing_sigma=0)
    calibration = calibrate([table], model_id=found.model_id, options=options, statistic_options=statistic_options)
    recipe = recipe_of(dataclasses.replace(found, calibration=calibration))
    decision = recipe["decision"]
    assert recipe["statistics"] == {"topk_fraction": 0.2, "smoothing_sigma": 0.0}
    assert (decision["anomalous_if"], decision["thresholds"], decision["threshold_by"]) == (anomalous_if, None, "line")
    for name in ("1", "2"):
        assert decision["group_thresholds"][name] == {
            str(statistic): calibration.threshold(statistic, name) for statistic in calibration.decision.statistics
        }
    assert recipe_of(dataclasses.replace(found, calibration=None))["decision"] is None
