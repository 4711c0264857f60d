"""Where a run came from: the commit and a digest of the source, and the versions of the libraries."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

LIBRARIES = ("torch", "torchvision", "pytorch-lightning", "nncf", "onnx", "onnxruntime", "openvino", "mlflow", "numpy")
PROJECT = Path(__file__).resolve().parents[2]
SOURCE = (":(top)", ":(top,exclude)dvc.lock", ":(top,exclude)pipeline")  # all files but those that a pipeline writes


def git_commit() -> str | None:
    """Return the commit of this project, with ``-dirty`` if the working tree differs from it; None outside git.

    A repository that merely lies above the project (which was unpacked into a folder of it, say) is not the project's.
    Files that DVC writes while it runs the pipeline do not count as a difference.
    """
    return _commit_and_remark()[0]


def remarks() -> list[str]:
    """Return what a person must know about ``git_commit``: why it is None though there is a repository."""
    remark = _commit_and_remark()[1]
    return [] if remark is None else [remark]


@cache
def source_digest() -> str:
    """Return 16 hexadecimal digits of the SHA-256 of all files of ``src/`` and ``conf/``, names included."""
    digest = hashlib.sha256()
    for path in sorted([*PROJECT.glob("src/**/*.py"), *PROJECT.glob("conf/**/*.yaml")]):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(PROJECT).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def versions() -> dict[str, str]:
    """Return the installed versions of the libraries that results depend on, and the digest of the source."""
    found = {"source": source_digest()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def _commit_and_remark() -> tuple[str | None, str | None]:
    try:
        above = _git("rev-parse", "--show-toplevel")
        if "dubious ownership" in above.stderr:
            remedy = re.search(r"git config --global --add safe\.directory .*", above.stderr)
            cure = f": {remedy[0]}" if remedy else ""
            return None, f"No commit is recorded, since this repository belongs to another user; git's remedy{cure}"
        if above.returncode != 0:
            return None, None
        folder = Path(above.stdout.rstrip("\n"))
        own = folder.resolve() == PROJECT
        if not own or _git("ls-files", "--error-unmatch", Path(__file__).resolve()).returncode != 0:
            return None, (
                f"No commit is recorded, since the repository {folder} does not hold this project's source; "
                f"the results name the source by its digest, {source_digest()}"
            )
        commit, status = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=all", *SOURCE)
    except OSError:  # there is no git
        return None, None
    if commit.returncode != 0 or status.returncode != 0:
        return None, None
    return commit.stdout.strip() + ("-dirty" if status.stdout.strip() else ""), None


def _git(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Call git in the project's folder; a repository that a hook of another one names does not count."""
    kept = {name: value for name, value in os.environ.items() if name not in ("GIT_DIR", "GIT_WORK_TREE")}
    command = ["git", *map(str, arguments)]
    return subprocess.run(command, cwd=PROJECT, env={**kept, "LC_ALL": "C"}, capture_output=True, text=True)
