"""A model as a job would build it: its backbone, its grid, what trains, and whether it computes and learns.

Shapes: B images, S side of the model input in pixels, H_t x W_t token grid, P and Q window sides in tokens.
"""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from feclip.bundle import Bundle, read_bundle
from feclip.config import DoctorConfig, ModelConfig
from feclip.data import InputOptions
from feclip.doctor.finding import Finding, failed, ok, warning

if TYPE_CHECKING:  # docs/adr/0020
    from feclip.model import FeClipModel

__all__ = ["check_model"]

RANDOM = "none"
PARTS = {"ffe": "FFE adapters", "lfs": "LFS adapters", "patch_head": "patch head"}
MILLION = 1e6


def check_model(config: DoctorConfig) -> Iterator[Finding]:
    """Build the model of a bundle or of the fields, look at it, and let it compute and learn.

    Raises:
        FeclipError: If it cannot be built.
    """
    from feclip import building  # noqa: PLC0415 - see docs/adr/0020
    from feclip.doctor.passes import check_forward, check_training  # noqa: PLC0415 - see docs/adr/0020

    bundle = None if config.bundle is None else read_bundle(config.bundle)
    fields = config.model if bundle is None else bundle.model
    if bundle is not None:
        yield from _bundle(bundle)
    building.check_model(fields)
    model = building.build_model(fields, seed=0) if bundle is None else bundle.build()
    yield from _backbone(model, fields)
    yield from _grid(model, fields)
    yield from _trained_parts(model)
    assert fields.image_size is not None
    options = InputOptions(image_size=fields.image_size) if bundle is None else bundle.input_options
    model.to(building.find_device(str(config.device)))
    yield from check_forward(model, options=options, precision=str(config.precision))
    yield from check_training(model, options=options, precision=str(config.precision))


def _bundle(bundle: Bundle) -> Iterator[Finding]:
    trained = bundle.images["role"].to_pylist()
    roles = ", ".join(f"{number} images {role}" for role, number in sorted(Counter(trained).items()))
    epochs = f"{len(bundle.metrics)} epochs" if bundle.metrics else "no epoch: only what CLIP knows"
    yield ok("bundle", f"{bundle.uri} is whole, model {bundle.model_id[:12]}; {epochs}; {roles or 'no images'}")
    calibration = bundle.calibration
    if calibration is None:
        advice = "feclip calibrate gives it thresholds; without them images get scores and no label"
        yield warning("thresholds", "none", advice=advice)
        return
    groups = calibration.groups.values() if calibration.groups else [calibration.overall]
    normals = min(group.num_normals for group in groups if group is not None)
    each = f" or more in each {calibration.threshold_by}" if calibration.groups else ""
    told = f"percentile {', '.join(calibration.percentiles)} of {normals} normals{each}"
    decision = calibration.decision
    if calibration.forced:
        yield warning("thresholds", f"{told}, fewer than it takes", advice="calibrate with more normal images")
    else:
        yield ok("thresholds", f"{told}; rule {decision.rule} at {decision.percentile} decides")


def _backbone(model: "FeClipModel", fields: ModelConfig) -> Iterator[Finding]:
    from feclip.model.backbone import probe_block_layout  # noqa: PLC0415 - see docs/adr/0020

    trunk = model.visual.transformer
    kinds = {type(module).__name__ for module in model.visual.modules()} & {"QuickGELU", "GELU"}
    heads = trunk.resblocks[0].attn.num_heads
    yield ok(
        "backbone",
        f"{fields.backbone} with {fields.pretrained}, {len(trunk.resblocks)} blocks of width {trunk.width}, "
        f"{heads} heads, {' and '.join(sorted(kinds))}, digest {model.backbone_digest[:12]}",
    )
    if fields.pretrained == RANDOM:
        advice = "scores mean nothing; name weights, or --model.backbone feclip-demo for a small trained one"
        yield warning("weights", f"random, from init_seed {fields.init_seed}", advice=advice)
    probe_block_layout(model.visual)
    yield ok("block layout", "tokens go in as (B, L, D), and images of a batch do not mix")
    yield ok("tap blocks", f"after blocks {', '.join(map(str, model.tap_blocks))}, zero-based")


def _grid(model: "FeClipModel", fields: ModelConfig) -> Iterator[Finding]:
    height, width = model.token_grid
    yield ok("token grid", f"{height} x {width} tokens of {model.patch_size} px on {model.image_size} px")
    if fields.use_ffe:
        side = fields.ffe_window_size
        if height % side:
            fitting = height // side * side * model.patch_size
            advice = f"model.image_size {fitting} would divide" if fitting else "take a smaller model.ffe_window_size"
            told = f"FFE windows of {side} do not divide it, so that {-height % side} rows and columns are repeated"
            yield warning("windows", told, advice=f"harmless for most images; {advice}")
        else:
            yield ok("windows", f"FFE windows of {side} divide it")
    if fields.use_lfs:
        side = fields.lfs_window_size
        center = "around their token" if side % 2 else "half a token off, since their side is even"
        yield ok("windows", f"LFS windows of {side}, {center}")


def _trained_parts(model: "FeClipModel") -> Iterator[Finding]:
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        part = next((title for key, title in PARTS.items() if key in name.split(".")), "backbone")
        counts[part if parameter.requires_grad else "frozen"] += parameter.numel()
    if counts["backbone"] or model.train().visual.training:
        told = f"the backbone trains: {counts['backbone']} of its parameters, mode {model.visual.training}"
        yield failed("parameters", told, advice="this is a defect of feclip; report it with --diagnose out.zip")
    else:
        frozen = counts.pop("frozen") / MILLION
        told = ", ".join(f"{part} {number / MILLION:.2f} M" for part, number in counts.items() if number)
        yield ok("parameters", f"trained: {told}; frozen: {frozen:.2f} M, in eval mode whatever .train() says")
    model.eval()
