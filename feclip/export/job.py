"""The command: from a bundle to a file that was compared with PyTorch before anybody can see it."""

import json
import logging
import posixpath

from feclip.bundle import read_bundle
from feclip.config import ExportConfig, ExportFormat
from feclip.data import absolute_uri, check_writable, write_bytes
from feclip.errors import BundleError
from feclip.export.agreement import compare
from feclip.export.images import drawn_inputs, list_images, read_inputs
from feclip.export.model import ExportedModel
from feclip.export.onnx_file import encode_onnx, open_onnx, require_onnx
from feclip.export.recipe import recipe_of
from feclip.export.torch_program import encode_torch, open_torch
from feclip.logs import fields

__all__ = ["export"]

logger = logging.getLogger(__name__)


def export(config: ExportConfig) -> None:
    """Write a bundle's model as one file, whole or not at all.

    Raises:
        RunError: If the file differs from PyTorch, or the format cannot hold the model.
        FeclipError: If the bundle, its backbone, an image or storage is not what it must be, or a package is missing.
    """
    is_onnx = config.format is ExportFormat.onnx
    if is_onnx:
        require_onnx()
    output = absolute_uri(config.output)
    check_writable(posixpath.dirname(output))
    files = [] if config.check_images is None else list_images(config.check_images, num=config.num_check_images)
    bundle = read_bundle(config.bundle).of_group(config.group, field="group")
    if bundle.memory_bank is not None and bundle.memory_bank.group_column is not None:
        msg = (
            f"{config.bundle} has a memory bank by {bundle.memory_bank.group_column}, of which an exported file is not "
            "told; export a bundle whose memory bank all images share, or one without."
        )
        raise BundleError(msg)
    if bundle.is_rectangular:
        msg = (
            f"{config.bundle} reads each image at its own aspect ratio (data.resize=rectangle), and an exported file "
            "has one input shape; export a bundle of data.resize letterbox or squash."
        )
        raise BundleError(msg)
    recipe = recipe_of(bundle)
    model = ExportedModel(bundle.build(pretrained=config.pretrained), statistic_options=bundle.statistic_options)
    encode, opened = (encode_onnx, open_onnx) if is_onnx else (encode_torch, open_torch)
    logger.info("Exporting %s as %s", config.bundle, config.format)
    content = encode(model, batch_size=config.batch_size, recipe=json.dumps(recipe, sort_keys=True, allow_nan=False))
    run, found_recipe = opened(content)
    assert json.loads(found_recipe) == recipe
    num = len(files) or config.num_check_images
    inputs = read_inputs(bundle.input_options, files) if files else drawn_inputs(bundle.input_options, num=num)
    agreement = compare(run, model, inputs, num=num, batch_size=config.batch_size, tolerance=config.tolerance)
    write_bytes(output, content)
    numbers = {"num_bytes": len(content), "num_images": agreement.num_images, **agreement.differences}
    logger.info("Exported to %s, %.1f MB: %s", output, len(content) / 1e6, agreement.text(), extra=fields(**numbers))
