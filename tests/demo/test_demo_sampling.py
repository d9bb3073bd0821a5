"""Samples: named by seed and index alone, damaged exactly where the mask says, and hard for a crude detector."""

import hashlib
import itertools
import subprocess
import sys

import numpy as np
import pytest

from feclip.demo import ALL_FAMILIES, DEFECT_TYPES, LINE_DEFECTS, Difficulty, Sample, draw_sample, render
from feclip.demo.defects import MIN_LEVELS
from feclip.errors import DataError

SIZES = ((96, 96), (256, 256), (80, 240))
SERIES = """
import hashlib
from feclip.demo import draw_sample
for index in {indices}:
    sample = draw_sample(seed=11, index=index, size=(64, 80))
    print(index, hashlib.sha256(sample.image.tobytes() + sample.mask.tobytes()).hexdigest(), sample.caption)
"""


def digest(sample: Sample) -> str:
    return hashlib.sha256(sample.image.tobytes() + sample.mask.tobytes()).hexdigest()


def change(sample: Sample, twin: Sample) -> np.ndarray:
    """Largest change over the channels, in grey levels, ``(H, W)``."""
    return np.abs(sample.image.astype(int) - twin.image).max(axis=2)


def series_in_new_process(indices: list[int]) -> set[str]:
    program = SERIES.format(indices=indices)
    return set(
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.splitlines()
    )


def test_samples_depend_neither_on_the_process_nor_on_the_order() -> None:
    here = {}
    for index in (4, 0, 3, 1, 2):
        sample = draw_sample(seed=11, index=index, size=(64, 80))
        here[index] = f"{index} {digest(sample)} {sample.caption}"
    assert series_in_new_process([0, 1, 2, 3, 4]) == set(here.values())


def test_no_two_seeds_or_indices_share_a_picture() -> None:
    names = list(itertools.product((0, 1, 2**32 - 1), (0, 1, 2)))
    digests = {digest(draw_sample(seed=seed, index=index, size=(48, 48))) for seed, index in names}
    assert len(digests) == len(names)


def test_the_global_random_state_plays_no_part() -> None:
    np.random.seed(1)  # noqa: NPY002 - the state that must not matter
    first = digest(draw_sample(seed=5, index=9, size=(48, 48)))
    np.random.seed(2)  # noqa: NPY002
    assert digest(draw_sample(seed=5, index=9, size=(48, 48))) == first


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_every_defect_on_every_family_changes_exactly_its_mask(family: str, size: tuple[int, int]) -> None:
    twin = render(seed=2, stream=("pair",), family=family, size=size)
    assert twin.label == 0
    assert not twin.mask.any()
    for defect_type in DEFECT_TYPES:
        sample = render(seed=2, stream=("pair",), family=family, size=size, defect_type=defect_type)
        assert sample.image.shape == (*size, 3)
        assert sample.image.dtype == np.uint8
        assert sample.mask.shape == size
        assert sample.mask.any()
        levels = change(sample, twin)
        assert not levels[~sample.mask].any(), defect_type
        assert levels[sample.mask].min() >= MIN_LEVELS, defect_type
        assert not (sample.mask & ~sample.foreground).any(), defect_type


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_parts_fill_neither_nothing_nor_everything_but_sheets_do(family: str) -> None:
    shares = [
        draw_sample(seed=3, index=index, families=(family,), size=(64, 64), defect_fraction=0.0).foreground.mean()
        for index in range(8)
    ]
    if family in {"weave", "brushed_metal", "wood", "tile", "granite"}:
        assert min(shares) == 1.0
    else:
        assert 0.1 < min(shares) < 0.97


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_the_examples_of_a_family_vary(family: str) -> None:
    normals = [draw_sample(seed=4, index=i, families=(family,), size=(48, 48), defect_fraction=0.0) for i in range(12)]
    tones = np.array([sample.image.mean() for sample in normals])
    assert tones.std() > 12.0
    assert all(sample.image.std() > 2.0 for sample in normals)


def test_sample_with_fraction_zero_is_the_flawless_twin() -> None:
    sample = draw_sample(seed=6, index=1, size=(96, 96), defect_fraction=1.0)
    twin = draw_sample(seed=6, index=1, size=(96, 96), defect_fraction=0.0)
    assert (sample.family, sample.label, twin.label) == (twin.family, 1, 0)
    assert np.array_equal(change(sample, twin) > 0, sample.mask)
    assert twin.caption == sample.caption.replace("damaged", "normal")


def test_captions_say_label_and_family_or_object() -> None:
    samples = [draw_sample(seed=7, index=index, size=(32, 32)) for index in range(60)]
    for sample in samples:
        state = "damaged" if sample.label else "normal"
        nouns = (sample.family.replace("_", " "), "object")
        assert sample.caption in {f"A photo of a {state} {noun}" for noun in nouns}
    generic = sum(sample.caption.endswith(" object") for sample in samples)
    assert 15 < generic < 45
    assert 15 < sum(sample.label for sample in samples) < 45


def test_half_of_the_defects_are_lines() -> None:
    samples = [draw_sample(seed=8, index=index, size=(32, 32), defect_fraction=1.0) for index in range(200)]
    assert 0.4 < np.mean([sample.defect_type in LINE_DEFECTS for sample in samples]) < 0.6


def is_thin_and_weak(sample: Sample, twin: Sample) -> bool:
    """Hardly a 3 x 3 block at half the strongest change, and a mean change near the noise (0.12 of full scale)."""
    levels = change(sample, twin)
    core = np.pad(levels >= 0.5 * np.percentile(levels[sample.mask], 95), 1)
    blocks = np.lib.stride_tricks.sliding_window_view(core, (3, 3)).all(axis=(2, 3))
    return bool(blocks.sum() < 0.15 * core.sum() and levels[sample.mask].mean() < 30)


def test_a_good_part_of_the_line_defects_is_thin_and_weak() -> None:
    draws = [
        [
            draw_sample(seed=8, index=index, defect_types=LINE_DEFECTS, defect_fraction=fraction)
            for fraction in (1.0, 0.0)
        ]
        for index in range(40)
    ]
    assert np.mean([is_thin_and_weak(sample, twin) for sample, twin in draws]) > 0.3


def test_difficulty_scales_the_contrast() -> None:
    def strength(difficulty: Difficulty) -> float:
        pairs = [
            [
                draw_sample(
                    seed=9, index=i, size=(96, 96), defect_types=("spot",), defect_fraction=share, difficulty=difficulty
                )
                for share in (1.0, 0.0)
            ]
            for i in range(10)
        ]
        return float(np.mean([change(sample, twin)[sample.mask].mean() for sample, twin in pairs]))

    easy = strength(Difficulty(weak_share=0.0, contrast=(0.45, 0.5)))
    hard = strength(Difficulty(weak_share=1.0, weak_contrast=(0.05, 0.06), grain_gain=0.0))
    assert easy > 3 * hard


def test_an_invisible_defect_is_an_error_rather_than_an_empty_mask() -> None:
    invisible = Difficulty(weak_share=1.0, weak_contrast=(1e-6, 1e-6), grain_gain=0.0)
    with pytest.raises(DataError, match="No visible 'streak'"):
        render(seed=0, stream=(), family="weave", size=(64, 64), defect_type="streak", difficulty=invisible)


def auroc(normal: np.ndarray, anomalous: np.ndarray) -> float:
    """Share of pairs that are ranked rightly, ties half."""
    gaps = anomalous[:, None] - normal[None, :]
    return float(((gaps > 0) + 0.5 * (gaps == 0)).mean())


def color_statistics(sample: Sample) -> np.ndarray:
    pixels = sample.image.reshape(-1, 3).astype(float)
    return np.concatenate([pixels.mean(axis=0), pixels.std(axis=0)])


def test_mean_and_spread_of_the_colours_do_not_give_the_defects_away() -> None:
    scores = []
    for family in ALL_FAMILIES:
        draw = {"seed": 10, "families": (family,), "size": (64, 64)}
        train = np.array([color_statistics(draw_sample(index=i, defect_fraction=0.0, **draw)) for i in range(50)])
        center, precision = train.mean(axis=0), np.linalg.inv(np.cov(train.T) + 0.5 * np.eye(6))
        test = {
            share: np.array(
                [color_statistics(draw_sample(index=i, defect_fraction=share, **draw)) for i in range(100, 130)]
            )
            for share in (0.0, 1.0)
        }
        distance = {
            share: np.einsum("bd,de,be->b", rows - center, precision, rows - center) for share, rows in test.items()
        }
        scores.append(auroc(distance[0.0], distance[1.0]))
    assert np.mean(scores) < 0.65
    assert max(scores) < 0.75


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"families": ("weave", "plush")}, "plush"),
        ({"families": ()}, "none"),
        ({"families": ("weave", "weave")}, "each once"),
        ({"defect_types": ("rust",)}, "rust"),
        ({"defect_fraction": 1.5}, r"defect_fraction must lie in \[0, 1\], got 1.5"),
        ({"size": (16, 64)}, "at least 32 px"),
        ({"seed": -1}, "got -1"),
        ({"index": 2**32}, "got 4294967296"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_sample(**{"seed": 0, "index": 0, **arguments})


@pytest.mark.parametrize(
    ("field", "value"), [("contrast", (0.5, 0.1)), ("line_width", (0.0, 1.0)), ("weak_share", 1.2), ("min_area", -1.0)]
)
def test_difficulty_refuses_what_it_cannot_draw(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"Difficulty.{field}"):
        Difficulty(**{field: value})
