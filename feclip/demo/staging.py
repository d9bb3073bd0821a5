"""A folder that appears whole or not at all."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from feclip.errors import DataError, StorageError


@contextlib.contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary sibling of ``target`` that takes its name once the block ends well.

    A block that raises leaves nothing; a killed process leaves a hidden ``.<name>.partial-*`` that nobody reads.

    Args:
        target: Folder to create; absent or empty.

    Raises:
        DataError: If ``target`` holds something already, or is a file.
        StorageError: If the file system refuses to create, write or rename.
    """
    target = target.absolute()
    if target.is_dir() and any(target.iterdir()):
        msg = f"{target} is not empty; name a new folder, or empty this one first."
        raise DataError(msg)
    if target.exists() and not target.is_dir():
        msg = f"{target} is a file; a data set needs a folder."
        raise DataError(msg)
    partial: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
        yield partial
        partial.chmod(0o755)
        if target.is_dir():
            target.rmdir()
        partial.rename(target)
    except OSError as error:
        msg = f"Cannot write {target}: {error}."
        raise StorageError(msg) from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
