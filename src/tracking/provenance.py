"""Where a run came from: commit, versions, machine, command."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

LIBRARIES = ("torch", "torchvision", "pytorch-lightning", "nncf", "onnx", "onnxruntime", "openvino", "mlflow", "numpy")

OTHERS = (":(top)", ":(top,exclude)dvc.lock", ":(top,exclude)pipeline")  # all but what a pipeline writes


@cache
def git_commit() -> str | None:
    """The commit of this project's working tree, ``-dirty`` appended where it differs; None outside git.

    What DVC writes while it runs the pipeline is no difference.
    """
    here = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        status = subprocess.run(
            ["git", "status", "--porcelain", *OTHERS], cwd=here, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("-dirty" if status.stdout.strip() else "")


def versions() -> dict[str, str]:
    """Installed versions of the libraries that results depend on."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
