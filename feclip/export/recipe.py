"""What an exported file says of itself: how an image becomes its input, and when it is anomalous. Plain JSON values."""

from typing import Any

from feclip import __version__
from feclip.bundle import Bundle, recorded_prompts
from feclip.calibration import Calibration
from feclip.data import parse_padding_color

__all__ = ["SCHEMA", "recipe_of"]

SCHEMA = 1


def recipe_of(bundle: Bundle) -> dict[str, Any]:
    """Return the recipe of a bundle's file.

    Args:
        bundle: What is exported.
    """
    calibration = bundle.calibration
    return {
        "schema": SCHEMA,
        "feclip_version": __version__,
        "model_id": bundle.model_id,
        "backbone": bundle.model.backbone,
        "backbone_digest": bundle.backbone_digest,
        "memory_bank_images": 0 if bundle.memory_bank is None else bundle.memory_bank.num_images,
        "class_names": ["normal", "anomalous"],
        "prompts": recorded_prompts(bundle.model),
        "input": {
            "image_size": bundle.model.image_size,
            "resize": bundle.input["resize"],
            "resampling": "bicubic, antialiased",
            "padding_color": list(parse_padding_color(bundle.input["padding_color"])),
            "valid_region": bundle.input["valid_region"],
            "jpeg_decoding": bundle.input["jpeg_decoding"],
        },
        "statistics": {
            "topk_fraction": bundle.statistic_options.topk_fraction,
            "smoothing_sigma": bundle.statistic_options.smoothing_sigma,
        },
        "calibration_id": None if calibration is None else calibration.calibration_id,
        "decision": None if calibration is None else _decision(calibration),
    }


def _decision(calibration: Calibration) -> dict[str, Any]:
    """Return the rule and its thresholds: an image is anomalous if any, or all, of its statistics exceed theirs."""
    decision = calibration.decision
    return {
        "rule": str(decision.rule),
        "percentile": decision.percentile,
        "variant": str(decision.variant),
        "anomalous_if": "any" if decision.rule == "either" else "all",
        "thresholds": None if calibration.overall is None else _thresholds(calibration, None),
        "threshold_by": calibration.threshold_by,
        "group_thresholds": {name: _thresholds(calibration, name) for name in sorted(calibration.groups)},
    }


def _thresholds(calibration: Calibration, group: str | None) -> dict[str, float]:
    return {str(statistic): calibration.threshold(statistic, group) for statistic in calibration.decision.statistics}
