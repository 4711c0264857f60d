"""The licence of each installed package of the lock, as its own metadata states it: ``python -m tests.licences``."""

from __future__ import annotations

import re
import textwrap
from importlib import metadata
from pathlib import Path

LOCK = Path(__file__).parent.parent / "requirements.lock"
UNSTATED = "not stated in the metadata"
ONE_NAME = {  # the names that packages give to one licence
    r"apache.*": "Apache-2.0",
    r"mit( license)?": "MIT",
    r".*bsd.*": "BSD",
    r"lgpl-3.*|.*\(lgplv3\+\)": "LGPL-3.0",
    r"mozilla.*": "MPL-2.0",
    r"python software foundation.*": "PSF-2.0",
    r".*nvidia.*": "NVIDIA's own",
    r"|osi approved": UNSTATED,
}


def locked() -> list[tuple[str, str]]:
    """Name, and the rest of the entry, of each package of the lock; some have one for each of two systems."""
    entries = re.split(r"\n(?=[a-z0-9])", LOCK.read_text().strip())
    return [(entry.partition("==")[0], entry.partition("==")[2]) for entry in entries]


def licence(package: str) -> str:
    """What ``package`` states: an SPDX expression, else a short name, else classifiers."""
    stated = metadata.metadata(package)
    name = stated.get("License-Expression")
    if not name:
        classes = [text for text in stated.get_all("Classifier") or () if text.startswith("License :: ")]
        name = stated.get("License") or ""
        if len(name) > 40 or name in ("", "UNKNOWN", "Dual License"):
            name = " OR ".join(text.rpartition(" :: ")[2] for text in classes)
        name = name.rpartition(" :: ")[2]
    if " AND " in name or " OR " in name:
        return str(name)
    return next((one for pattern, one in ONE_NAME.items() if re.fullmatch(pattern, name, re.IGNORECASE)), str(name))


def by_licence() -> dict[str, set[str]]:
    """The installed packages of the lock under each licence."""
    found: dict[str, set[str]] = {}
    for package, _ in locked():
        try:
            found.setdefault(licence(package), set()).add(package)
        except metadata.PackageNotFoundError:  # of another system
            continue
    return dict(sorted(found.items(), key=lambda item: item[0].casefold()))


if __name__ == "__main__":
    for name, packages in by_licence().items():
        text = f"- **{name}**: {', '.join(sorted(packages))}"
        print(textwrap.fill(text, 125, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False))
