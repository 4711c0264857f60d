"""Measure a bundle's models on this machine: ``python3 bundle.pyz``, or ``python3 -m device bundle.pyz``."""

import argparse
import datetime
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from .schema import InputError

DONE, WRONG_INPUT, INTERRUPTED = 0, 2, 130
FORMAT = 1  # of the results file
BATCH = 100  # images at once for the accuracy, if a file takes any number
WARM_UP_SECONDS = 2.0  # at most
COLUMNS = ("accuracy", "latency p50", "p95", "p99", "size", "hottest", "power", "energy")
WIDTHS = (8, 14, 11, 11, 9, 9, 8, 11)


class Settings(NamedTuple):
    """How models are measured.

    Attributes:
        seconds: Time in which the calls of each model are counted.
        threads: Number of processor threads.
        images: Number of images of each sample that give the accuracy, or ``all``.
    """

    seconds: float
    threads: int
    images: str


class Outcome:
    """The models of a bundle, measured or not.

    Attributes:
        rows: A row for each model that was measured.
        lacking: Name and reason for each model whose runtime is not here.
        refused: Name and reason for each model that its runtime refuses.
    """

    def __init__(self) -> None:
        self.rows: List[Dict[str, Any]] = []
        self.lacking: List[Tuple[str, str]] = []
        self.refused: List[Tuple[str, str]] = []


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Parse, measure, print.

    Returns:
        The exit code: 0 done, 2 wrong input or a model that its runtime refuses, 130 interrupted.
    """
    inside = Path(__file__).resolve().parent.parent  # the bundle itself, if this runs from one
    own = inside if inside.is_file() else None
    parser = argparse.ArgumentParser(prog=f"python3 {own.name}" if own else "python3 -m device", description=__doc__)
    parser.add_argument("bundle", type=Path, nargs="?", default=own, help="bundle that python -m src.bundle wrote")
    parser.add_argument("--seconds", type=float, default=2.0, help="time of counted calls for each model (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="processor threads (%(default)s)")
    parser.add_argument("--images", default="all", help="number of sample images for the accuracy (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("device_results.json"), help="results file (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        return evaluate(options.bundle, options.out, Settings(options.seconds, options.threads, options.images))
    except InputError as error:
        print(error, file=sys.stderr)
    except OSError as error:
        print(f"{error.filename or 'reading or writing'}: {error.strerror or error}", file=sys.stderr)
    except UnicodeEncodeError as error:
        text = ascii(error.object[error.start : error.end])
        print(f"{error.encoding} cannot write {text}, which is in a name: LC_ALL=C.UTF-8 python3 ...", file=sys.stderr)
    except KeyboardInterrupt:
        print("Interrupted; nothing was written.", file=sys.stderr)
        return INTERRUPTED
    return WRONG_INPUT


def evaluate(path: Optional[Path], out: Path, settings: Settings) -> int:
    """Measure every model whose runtime is here, print a line for each, and write the results.

    Args:
        path: The bundle.
        out: Results file; it is written whole when all is measured.
        settings: How models are measured.

    Raises:
        InputError: A setting is wrong, the bundle cannot be used, or no model could be measured.
    """
    _check(path, out, settings)
    bundle = _open(path)
    about = _about(bundle, settings)
    mode = f", clock mode {about['clock_mode']}" if about["clock_mode"] else ""
    threads = f"{settings.threads} thread{'s' * (settings.threads != 1)}"
    print(f"{about['board']}{mode}, {threads}, Python {about['python']}", flush=True)
    outcome = Outcome()
    for sample in sorted(bundle.samples):
        _measure_sample(bundle, sample, settings, outcome)
    not_run = outcome.lacking + outcome.refused
    if not outcome.rows:
        reasons = "; ".join(sorted({reason for _, reason in not_run}))
        raise InputError(f"None of the {len(bundle.models)} models could be run: {reasons}")
    results = dict(
        about,
        runtimes=sorted({row["runtime"] for row in outcome.rows}),
        rows=outcome.rows,
        not_run=[{"name": name, "reason": reason} for name, reason in not_run],
    )
    _write(out, results)
    print(f"\nWritten: {out}    To keep it beside the host's runs: python -m src.import_results {out.name}")
    for name, reason in outcome.refused:
        print(f"{name} is refused by its runtime: {reason}", file=sys.stderr)
    return WRONG_INPUT if outcome.refused else DONE


def _open(path: Any) -> Any:
    """The bundle; raise InputError if it cannot be used, or numpy is missing."""
    try:
        import numpy  # noqa: F401
    except ImportError:
        raise InputError("numpy is not installed: python3 -m pip install numpy")
    from . import manifest

    return manifest.Bundle(path)


def _about(bundle: Any, settings: Settings) -> Dict[str, Any]:
    """What the results file says of the bundle and the machine."""
    from . import sensors

    return {
        "format": FORMAT,
        "bundle": bundle.id,
        "board": board(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "clock_mode": sensors.clock_mode(),
        "threads": settings.threads,
        "measured_at": datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0).isoformat(),
    }


def _measure_sample(bundle: Any, name: str, settings: Settings, outcome: Outcome) -> None:
    """Measure the models that are tested on one sample, print the table, and add to ``outcome``."""
    from . import runtimes

    label, target = (max(len(model[key]) for model in bundle.models) for key in ("label", "target"))
    pixels, labels = bundle.sample(name)
    pixels, labels = _pick(pixels, labels, settings.images)
    sample = bundle.samples[name]
    print(f"\n{name} ({len(labels):,} of {sample['of']:,} test images)")
    headings = ["variant".ljust(label), "target".ljust(target)]
    print(" ".join(headings + [heading.rjust(width) for heading, width in zip(COLUMNS, WIDTHS)]))
    for model in bundle.models:
        if model["sample"] != name:
            continue
        names = f"{model['label'].ljust(label)} {model['target'].ljust(target)}"
        try:
            row = _measure(bundle, model, sample, pixels, labels, settings)
        except runtimes.NoRuntimeError as error:
            outcome.lacking.append((model["name"], str(error)))
            print(f"{names}  not run: {error}", flush=True)
        except runtimes.RefusedError as error:
            outcome.refused.append((model["name"], str(error)))
            print(f"{names}  refused: {error}", flush=True)
        else:
            outcome.rows.append(row)
            print(" ".join([names] + [text.rjust(width) for text, width in zip(_cells(row), WIDTHS)]), flush=True)


def board() -> str:
    """Name of the board; on other machines, the processor and the system."""
    try:
        return Path("/proc/device-tree/model").read_text().strip("\0\n ")
    except (OSError, ValueError):
        pass
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{processor}, {platform.system()} {platform.machine()}"


def normalize(pixels: Any, sample: Dict[str, Any]) -> Any:
    """Turn bytes ``[n, c, h, w]`` into float32 of mean 0 and deviation 1 for each channel, as in training."""
    import numpy as np

    mean, std = (np.array(sample[key], np.float32).reshape(1, -1, 1, 1) for key in ("mean", "std"))
    return (pixels.astype(np.float32) - mean * np.float32(255)) * (np.float32(1) / (std * np.float32(255)))


def _measure(
    bundle: Any, model: Dict[str, Any], sample: Dict[str, Any], pixels: Any, labels: Any, settings: Settings
) -> Dict[str, Any]:
    """Measure a model: accuracy over the sample, latency of one image, and what the sensors show meanwhile."""
    from . import runtimes, sensors, timing

    with tempfile.TemporaryDirectory() as folder:
        path = bundle.extract(model, Path(folder))
        loaded = runtimes.load(path, model["runtime"], model["computes"], sample["image_shape"], settings.threads)
        try:
            hits = _hits(loaded, sample, pixels, labels)
            image = normalize(pixels[:1], sample)
            steady = timing.warm_up(lambda: loaded.run(image), min(WARM_UP_SECONDS, settings.seconds))
            meter = sensors.EnergyMeter()
            meter.start()
            times = timing.timed(lambda: loaded.run(image), settings.seconds)
            joules = meter.stop()
        except runtimes.RefusedError:
            raise
        except Exception as error:  # a runtime may raise anything on a file that it loads and cannot run
            raise runtimes.RefusedError(str(error).strip().split("\n")[0] or type(error).__name__)
    return {
        "name": model["name"],
        "accuracy": hits / len(labels),
        "images": len(labels),
        "size_bytes": model["size_bytes"],
        "latency_ms": timing.percentiles(times),
        "latency_runs": len(times),
        "steady": steady,
        "temperature_celsius": sensors.temperature_celsius(),
        "power_watts": None if joules is None else joules / sum(times),
        "energy_uj": None if joules is None else 1e6 * joules / len(times),
        "energy_source": None if joules is None else meter.source,
        "runtime": loaded.runtime,
    }


def _hits(loaded: Any, sample: Dict[str, Any], pixels: Any, labels: Any) -> int:
    """Number of images that are classified correctly."""
    from . import runtimes

    if loaded.batch not in (None, 1):
        raise runtimes.RefusedError(f"it takes {loaded.batch} images at once, and a single one cannot be timed")
    hits, batch = 0, loaded.batch or BATCH
    for start in range(0, len(labels), batch):
        images, expected = normalize(pixels[start : start + batch], sample), labels[start : start + batch]
        logits = loaded.run(images)
        if logits.ndim != 2 or logits.shape[1] != len(sample["classes"]):
            raise runtimes.RefusedError(
                f"its output is {list(logits.shape)}, and there are {len(sample['classes'])} classes"
            )
        hits += int((logits.argmax(1) == expected).sum())
    return hits


def _pick(pixels: Any, labels: Any, images: str) -> Tuple[Any, Any]:
    """Pick ``images`` images of a sample at equal distances, since some data sets are ordered by class."""
    import numpy as np

    if images == "all" or int(images) >= len(labels):
        return pixels, labels
    at = np.linspace(0, len(labels) - 1, int(images)).astype(np.int64)
    return pixels[at], labels[at]


def _check(path: Optional[Path], out: Path, settings: Settings) -> None:
    """Raise InputError for a missing bundle or a setting out of its range."""
    if path is None:
        raise InputError("name the bundle to measure: python3 -m device bundle.pyz")
    if not path.is_file():
        raise InputError(f"There is no file {path}")
    if not 0 < settings.seconds < float("inf"):
        raise InputError(f"--seconds must be more than 0, and is {settings.seconds}")
    if settings.threads < 1:
        raise InputError(f"--threads must be at least 1, and is {settings.threads}")
    if settings.images != "all" and not (settings.images.isdecimal() and int(settings.images) > 0):
        raise InputError(f"--images must be a number from 1 or 'all', and is {settings.images}")
    folder = out.resolve().parent
    if not folder.is_dir() or out.is_dir():
        raise InputError(f"--out must name a file in a folder that exists, and is {out}")
    if not os.access(str(folder), os.W_OK):
        raise InputError(f"--out: nothing can be written in {folder}")


def _cells(row: Dict[str, Any]) -> List[str]:
    """The cells of a row, in the order of ``COLUMNS``."""
    latency, degrees, watts, energy = (
        row[k] for k in ("latency_ms", "temperature_celsius", "power_watts", "energy_uj")
    )
    return [
        f"{100 * row['accuracy']:.2f} %",
        *(f"{latency[at]:.3f} ms" for at in ("p50", "p95", "p99")),
        f"{row['size_bytes'] / 1e6:.2f} MB" if row["size_bytes"] >= 1e6 else f"{row['size_bytes'] / 1e3:.1f} kB",
        "-" if degrees is None else f"{degrees:.1f} C",
        "-" if watts is None else f"{watts:.2f} W",
        "-" if energy is None else f"{energy:,.0f} uJ",
    ]


def _write(path: Path, content: Dict[str, Any]) -> None:
    """Write the results whole or not at all; the board has no other module of this project for that."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("w") as file:
            file.write(json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())  # a board is often switched off without a shutdown
        os.replace(str(part), str(path))
    finally:
        if part.exists():
            part.unlink()


if __name__ == "__main__":
    sys.exit(main())
