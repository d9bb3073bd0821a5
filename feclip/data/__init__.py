"""Images in: storage, decoding, letterbox and valid masks, layouts, manifests, splits and the leakage check."""

from feclip.data.boundary import Boundary
from feclip.data.dataset import (
    Batch,
    LabelledImages,
    Sample,
    collate,
    prefetched,
    prefetched_batches,
    read_image_mask,
    read_valid_mask,
)
from feclip.data.decode import (
    IMAGE_SUFFIXES,
    MAX_FILE_BYTES,
    MAX_PIXELS,
    decode_image,
    decode_mask,
    pixel_digest,
    sha256,
)
from feclip.data.fetch import FetchedImage, decode_fetched, fetch_and_decode
from feclip.data.gpu_decode import GpuDecoder, SourceSize, UndecodedJpeg, require_gpu_decoding, undecoded_jpeg
from feclip.data.guarded_decode import GuardedDecoder
from feclip.data.image_errors import ImageError, ImageErrorKind
from feclip.data.inspection import INSPECTION_SCHEMA, inspect_rows
from feclip.data.layouts import LAYOUTS, find_layout, read_layout
from feclip.data.letterbox import Letterbox, letterbox, parse_padding_color, squash, uniform_border, valid_tokens
from feclip.data.manifest import MANIFEST_SCHEMA, build_manifest, read_manifest
from feclip.data.mvtec import read_mvtec
from feclip.data.near_duplicates import SAME_PICTURE, THUMBNAIL_BYTES, find_known, nearest_thumbnails, thumbnail
from feclip.data.parquet import DAMAGED_PARQUET, PARQUET_BATCH_ROWS, encode_parquet, parse_parquet
from feclip.data.prepare import InputOptions, PreparedImage, prepare_image
from feclip.data.rectangles import TokenBox, by_rectangle
from feclip.data.split import Split, assign_splits, overlap_check
from feclip.data.stopwatch import Stopwatch
from feclip.data.storage import (
    MAX_READ_BYTES,
    STORAGE_PATIENCE_VARIABLE,
    FileEntry,
    FolderEntry,
    StorageForbiddenError,
    StorageMissingError,
    StorageTooLargeError,
    absolute_uri,
    check_writable,
    delete,
    exists,
    is_dir,
    is_local,
    join_uri,
    list_children,
    list_files,
    local_path,
    read_bytes,
    write_bytes,
)
from feclip.data.strict_json import MAX_JSON_BYTES, is_count, is_number, parse_json
from feclip.data.valid_region import ValidBox, pack_valid_pixels, unpack_valid_pixels

__all__ = [
    "DAMAGED_PARQUET",
    "IMAGE_SUFFIXES",
    "INSPECTION_SCHEMA",
    "LAYOUTS",
    "MANIFEST_SCHEMA",
    "MAX_FILE_BYTES",
    "MAX_JSON_BYTES",
    "MAX_PIXELS",
    "MAX_READ_BYTES",
    "PARQUET_BATCH_ROWS",
    "SAME_PICTURE",
    "STORAGE_PATIENCE_VARIABLE",
    "THUMBNAIL_BYTES",
    "Batch",
    "Boundary",
    "FetchedImage",
    "FileEntry",
    "FolderEntry",
    "GpuDecoder",
    "GuardedDecoder",
    "ImageError",
    "ImageErrorKind",
    "InputOptions",
    "LabelledImages",
    "Letterbox",
    "PreparedImage",
    "Sample",
    "SourceSize",
    "Split",
    "Stopwatch",
    "StorageForbiddenError",
    "StorageMissingError",
    "StorageTooLargeError",
    "TokenBox",
    "UndecodedJpeg",
    "ValidBox",
    "absolute_uri",
    "assign_splits",
    "build_manifest",
    "by_rectangle",
    "check_writable",
    "collate",
    "decode_fetched",
    "decode_image",
    "decode_mask",
    "delete",
    "encode_parquet",
    "exists",
    "fetch_and_decode",
    "find_known",
    "find_layout",
    "inspect_rows",
    "is_count",
    "is_dir",
    "is_local",
    "is_number",
    "join_uri",
    "letterbox",
    "list_children",
    "list_files",
    "local_path",
    "nearest_thumbnails",
    "overlap_check",
    "pack_valid_pixels",
    "parse_json",
    "parse_padding_color",
    "parse_parquet",
    "pixel_digest",
    "prefetched",
    "prefetched_batches",
    "prepare_image",
    "read_bytes",
    "read_image_mask",
    "read_layout",
    "read_manifest",
    "read_mvtec",
    "read_valid_mask",
    "require_gpu_decoding",
    "sha256",
    "squash",
    "thumbnail",
    "undecoded_jpeg",
    "uniform_border",
    "unpack_valid_pixels",
    "valid_tokens",
    "write_bytes",
]
