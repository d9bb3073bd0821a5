"""Compiled models and bfloat16 score as float32 does, within the bounds that docs/experiments.md states."""

import importlib
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch._dynamo import config as dynamo_config
from torch._inductor import config as inductor_config

from feclip.bundle import Bundle
from feclip.errors import ConfigError
from feclip.scoring import Scorer

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NUM_PICTURES = 1000
SPEARMAN = 0.999
BOUNDS = {  # mean and largest difference of any logit
    "float32, compiled": (1e-5, 4e-3),  # the largest is a step of the stored float16 map
    "bfloat16": (0.03, 0.3),
    "bfloat16, compiled": (0.03, 0.3),
}


@pytest.fixture(scope="module")
def numerics() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("numerics")
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def small(numerics: ModuleType) -> Bundle:
    """A bundle with a small random trunk."""
    bundle: Bundle = numerics.fresh_bundle("ViT-S-16-alt", image_size=64)
    return bundle


@pytest.fixture(scope="module")
def inputs(numerics: ModuleType, small: Bundle) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and valid pixels of eleven pictures."""
    pixels, valid = numerics.demo_inputs(small, pictures=11)
    return pixels, valid


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_compiled_and_bfloat16_scores_stay_close_to_float32_and_rank_alike(numerics: ModuleType) -> None:
    bundle = numerics.fresh_bundle(numerics.DEMO_BACKBONE, image_size=112)
    pixels, valid = numerics.demo_inputs(bundle, pictures=NUM_PICTURES)
    plain = numerics.scored(bundle, pixels, valid)
    for name, (precision, compiles) in numerics.VARIANTS.items():
        other = numerics.scored(bundle, pixels, valid, precision=precision, compiles=compiles)
        for statistic, (mean, largest, rank) in numerics.differences(other, plain).items():
            assert mean <= BOUNDS[name][0], (name, statistic)
            assert largest <= BOUNDS[name][1], (name, statistic)
            assert rank >= SPEARMAN, (name, statistic)


@pytest.mark.slow
def test_a_compiled_model_is_compiled_once_for_any_number_of_images(
    small: Bundle, inputs: tuple[np.ndarray, np.ndarray]
) -> None:
    pixels, valid = inputs
    plain = Scorer(small, precision="float32", batch_size=4).score(pixels, valid)
    scorer = Scorer(small, precision="float32", batch_size=4, compiles=True)
    assert scorer.start_up.compiled
    assert scorer.start_up.warm_up_seconds > 0
    with dynamo_config.patch(error_on_recompile=True):
        for number in (11, 4, 1, 0):
            scores = scorer.score(pixels[:number], valid[:number])
            assert len(scores.token_map) == number
            assert np.abs(scores.image_logit - plain.image_logit[:number]).max(initial=0) < 1e-5
            assert np.allclose(scores.token_map, plain.token_map[:number], rtol=2e-3, atol=1e-5, equal_nan=True)


@pytest.mark.slow
def test_a_machine_without_a_compiler_is_told_in_one_line(small: Bundle) -> None:
    with (
        inductor_config.patch({"cpp.cxx": ("no-such-compiler",), "fx_graph_cache": False}),
        pytest.raises(ConfigError, match=r"^score\.compile: the model cannot be compiled where it runs") as found,
    ):
        Scorer(small, compiles=True)
    torch.compiler.reset()
    assert "no-such-compiler" in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.gpu
@pytest.mark.parametrize("compiles", [False, True])
def test_a_gpu_scores_as_the_cpu_does(compiles: bool, small: Bundle, inputs: tuple[np.ndarray, np.ndarray]) -> None:
    """In full batches and a last one, from other threads, twice."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    pixels, valid = inputs
    here = Scorer(small, precision="float32").score(pixels, valid)
    on_gpu = Scorer(small, device="cuda", precision="float32", batch_size=4, compiles=compiles)
    with ThreadPoolExecutor(2) as pool:
        for there in pool.map(lambda _: on_gpu.score(pixels, valid), range(2)):
            assert np.abs(there.image_logit - here.image_logit).max() < 1e-3
            assert np.allclose(there.token_map, here.token_map, rtol=2e-3, atol=1e-3, equal_nan=True)


@pytest.mark.gpu
def test_a_batch_size_is_found_on_a_gpu(small: Bundle) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    assert Scorer(small, device="cuda", max_batch_size=10, gpu_share=0.5).batch_size == 10
