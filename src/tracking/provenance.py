"""Where a run came from: the commit of the source and the versions of the libraries."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

LIBRARIES = ("torch", "torchvision", "pytorch-lightning", "nncf", "onnx", "onnxruntime", "openvino", "mlflow", "numpy")
SOURCE = (":(top)", ":(top,exclude)dvc.lock", ":(top,exclude)pipeline")  # all files but those that a pipeline writes


@cache
def git_commit() -> str | None:
    """Return the commit of this project, with ``-dirty`` if the working tree differs from it; None outside git.

    Files that DVC writes while it runs the pipeline do not count as a difference.
    """
    here = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        status = subprocess.run(
            ["git", "status", "--porcelain", *SOURCE], cwd=here, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("-dirty" if status.stdout.strip() else "")


def versions() -> dict[str, str]:
    """Return the installed versions of the libraries that results depend on."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
