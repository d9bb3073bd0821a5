"""Makes the decoding process, and nothing else that Python runs, as hostile as tests/data/hostile_decoder.py."""

import sys

if any(word.endswith("_decoding_process.py") for word in sys.orig_argv):
    from pathlib import Path

    sys.path.append(str(Path(__file__).parents[2] / "data"))
    from hostile_decoder import hostile_open
    from PIL import Image

    Image.open = hostile_open  # type: ignore[assignment]
