"""Predictions in this process: their scores, labels and pictures."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_thresholds import OPTIONS, SIZE

from feclip.data import ImageError, InputOptions
from feclip.errors import ConfigError, DataError
from feclip.model import pixel_maps
from feclip.prediction import FailedPrediction, Prediction, Predictor


def test_one_image_has_scores_and_a_map_at_its_own_size(predictor: Predictor, pictures: Path) -> None:
    found = predictor.predict(pictures / "line=1" / "part 0.png")
    assert (found.width, found.height) == (90, 40)
    assert found.anomaly_map.shape == (40, 90)
    assert np.isfinite(found.anomaly_map).all()
    assert found.label is None
    assert found.thresholds == {}
    assert 0 < found.image_score < 1
    assert np.isclose(found.image_score, 1 / (1 + np.exp(-found.image_logit)))
    assert found.anomaly_map.max() <= found.map_max + 1e-3


def test_images_come_in_their_order_and_bad_ones_hold_up_no_other(predictor: Predictor, pictures: Path) -> None:
    names = [f"line=1/part {number}.png" for number in (0, 2)]
    places = [pictures / name for name in (names[0], "line=1/empty.png", "line=2/broken.jpg", "absent.png", names[1])]
    found = list(predictor.predict_all(places))
    assert [item.uri for item in found] == [str(place) for place in places]
    kinds = [item.error.kind.value for item in found if isinstance(item, FailedPrediction)]  # type: ignore[union-attr]
    assert kinds == ["empty", "truncated", "absent"]
    for item, place in zip(found, places, strict=True):
        if isinstance(item, Prediction):
            np.testing.assert_allclose(_scores(item), _scores(predictor.predict(place)), rtol=0, atol=1e-5)
    with pytest.raises(ImageError, match="the file is empty"):
        predictor.predict(places[1])


def test_labels_rest_on_the_thresholds_of_a_group(calibrated_bundle: str, pictures: Path, tmp_path: Path) -> None:
    with Predictor.load(calibrated_bundle, device="cpu", precision="float32") as predictor:
        found = predictor.predict(pictures / "line=1" / "part 2.png")
        calibration = predictor.bundle.calibration
        assert calibration is not None
        assert {*found.thresholds} == {"image_logit", "map_max"}
        assert found.thresholds["map_max"] == calibration.threshold(predictor.decides_on[1], "1")
        above = found.image_logit > found.thresholds["image_logit"] or found.map_max > found.thresholds["map_max"]
        assert found.label == ("anomalous" if above else "normal")
        with pytest.raises(DataError, match="calibration never saw line '2'"):
            predictor.predict(pictures / "line=2" / "part 1.png")
        alone = tmp_path / "alone.png"
        Image.new("RGB", (9, 9)).save(alone)
        with pytest.raises(DataError, match="has no line, by which"):
            predictor.predict(alone)
        statistics = predictor._statistics  # noqa: SLF001 - what the maps were computed with
    assert statistics == OPTIONS


def test_the_map_is_that_of_the_token_map_without_padding(predictor: Predictor, pictures: Path) -> None:
    import torch  # noqa: PLC0415 - beside what it is compared with

    found = predictor.predict(pictures / "line=2" / "part 1.png")
    whole = pixel_maps(torch.from_numpy(found.token_map)[None], image_size=SIZE)[0].numpy()
    np.testing.assert_array_equal(found.anomaly_map, whole)  # 64 x 64 px is the input itself
    wide = predictor.predict(pictures / "line=1" / "part 4.png")
    assert np.isnan(wide.token_map).any()
    assert wide.anomaly_map.shape == (64, 128)


@pytest.mark.parametrize("name", ["out.png", "out.JPG", "out.webp"])
def test_an_overlay_is_saved_at_the_images_own_size(
    predictor: Predictor, pictures: Path, tmp_path: Path, name: str
) -> None:
    found = predictor.predict(pictures / "line=1" / "part 0.png")
    assert found.save(tmp_path / name) == str(tmp_path / name)
    with Image.open(tmp_path / name) as picture:
        assert picture.size == (90, 40)
        assert picture.mode == "RGB"


def test_only_what_stands_out_is_coloured_and_only_above_a_threshold_outlined(
    predictor: Predictor, tmp_path: Path
) -> None:
    image = tmp_path / "grey.png"
    Image.new("RGB", (SIZE, SIZE), (128, 128, 128)).save(image)
    found = predictor.predict(image)
    cold = np.full(found.token_map.shape, -9, np.float16)
    grey = np.asarray(Image.open(image))
    np.testing.assert_array_equal(np.asarray(dataclasses.replace(found, token_map=cold).overlay()), grey)
    hot = cold.copy()
    hot[1, 2] = 9
    plain = np.asarray(dataclasses.replace(found, token_map=hot).overlay())
    changed = (plain != grey).any(axis=2)
    side = SIZE // len(hot)
    assert changed[side + 4 : 2 * side - 4, 2 * side + 4 : 3 * side - 4].all()
    assert not changed[3 * side :].any()
    assert not changed[:, :side].any()
    outlined = np.asarray(dataclasses.replace(found, token_map=hot, pixel_threshold=1.0).overlay())
    white = (outlined == 255).all(axis=2)
    assert white.any()
    assert not white[side + 6 : 2 * side - 6, 2 * side + 6 : 3 * side - 6].any()
    assert not (plain == 255).all(axis=2).any()


def test_an_overlay_of_another_kind_or_of_a_changed_file_is_refused(predictor: Predictor, tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    Image.new("RGB", (20, 20), (9, 9, 9)).save(image)
    found = predictor.predict(image)
    with pytest.raises(ConfigError, match=r"saved as .png, .jpg, .jpeg, .webp, got .*out.tiff"):
        found.save(tmp_path / "out.tiff")
    Image.new("RGB", (20, 20), (10, 9, 9)).save(image)
    with pytest.raises(DataError, match="has changed since it was scored"):
        found.save(tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


def test_a_device_that_is_not_there_is_one_line(bundle: str) -> None:
    with pytest.raises(ConfigError, match="device must be one of auto, cpu, cuda, got 'tpu'"):
        Predictor.load(bundle, device="tpu")


def test_an_upright_image_is_drawn_upright(predictor: Predictor, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (30, 10), (200, 10, 10)).save(tmp_path / "turned.jpg", exif=exif)
    found = predictor.predict(tmp_path / "turned.jpg")
    assert (found.width, found.height) == (10, 30)
    assert found.overlay().size == (10, 30)


def test_inputs_are_those_of_the_bundle(predictor: Predictor, pictures: Path) -> None:
    found = predictor.predict(pictures / "line=1" / "part 0.png")
    assert found.options == InputOptions(image_size=SIZE)
    assert found.valid_box == (18, 0, 28, 64)


def _scores(found: Prediction) -> tuple[float, ...]:
    return found.image_logit, found.image_score, found.map_max, found.map_topk_mean
