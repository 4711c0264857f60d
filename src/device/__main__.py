"""Measure a bundle's models on this machine: ``python3 bundle.pyz``, or ``python3 -m device bundle.pyz``."""

import argparse
import datetime
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

DONE, WRONG_INPUT, INTERRUPTED = 0, 2, 130
FORMAT = 1
BATCH = 100  # images at once for the accuracy, where a file takes any number
WARM_UP_SECONDS = 2.0  # at the most
COLUMNS = ("accuracy", "latency p50", "p95", "p99", "size", "hottest", "power", "energy")
WIDTHS = (8, 14, 11, 11, 9, 9, 8, 11)


class InputError(Exception):
    """What was asked for cannot be done; the message says why, in one line."""


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Parse, measure, print; return the exit code: 0 done, 2 wrong input or a model that its runtime refuses."""
    inside = Path(__file__).resolve().parent.parent  # the bundle itself, when this runs from one
    own = inside if inside.is_file() else None
    parser = argparse.ArgumentParser(prog=f"python3 {own.name}" if own else "python3 -m device", description=__doc__)
    parser.add_argument("bundle", type=Path, nargs="?", default=own, help="as python -m src.bundle wrote it")
    parser.add_argument("--seconds", type=float, default=2.0, help="of timed calls for each model (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of the processor (%(default)s)")
    parser.add_argument("--images", default="all", help="how many of the sample give the accuracy (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("device_results.json"), help="(%(default)s)")
    options = parser.parse_args(arguments)
    try:
        return evaluate(options.bundle, options.seconds, options.threads, options.images, options.out)
    except InputError as error:
        print(error, file=sys.stderr)
    except OSError as error:
        print(f"{error.filename or 'reading or writing'}: {error.strerror or error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("Interrupted; nothing was written.", file=sys.stderr)
        return INTERRUPTED
    return WRONG_INPUT


def evaluate(path: Optional[Path], seconds: float, threads: int, images: str, out: Path) -> int:
    """Measure every model that a runtime is there for, print a line each, write ``out``.

    Args:
        path: Of the bundle.
        seconds: Of timed calls for each model.
        threads: Of the processor.
        images: How many of the sample's images give the accuracy, or ``all``.
        out: Written whole when all is measured.

    Raises:
        InputError: Something that was given does not fit, or nothing could be measured.
    """
    _check(path, seconds, threads, images, out)
    try:
        import numpy  # noqa: F401
    except ImportError:
        raise InputError("numpy is not installed: python3 -m pip install numpy")
    from . import manifest, runtimes, sensors

    try:
        bundle = manifest.Bundle(path)  # type: ignore[arg-type]
    except manifest.BundleError as error:
        raise InputError(str(error))
    about: Dict[str, Any] = {
        "format": FORMAT,
        "bundle": bundle.id,
        "board": board(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "clock_mode": sensors.clock_mode(),
        "threads": threads,
        "measured_at": datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0).isoformat(),
    }
    mode = f", clock mode {about['clock_mode']}" if about["clock_mode"] else ""
    print(f"{about['board']}{mode}, {threads} thread{'s' * (threads != 1)}, Python {about['python']}", flush=True)
    label, target = (max(len(model[key]) for model in bundle.models) for key in ("label", "target"))
    rows: List[Dict[str, Any]] = []
    refused: List[Tuple[str, str]] = []
    lacking: List[Tuple[str, str]] = []
    for name in sorted(bundle.samples):
        pixels, labels = _head(*bundle.sample(name), images=images)
        sample = bundle.samples[name]
        print(f"\n{name} ({len(labels):,} of {sample['of']:,} test images)")
        print(
            " ".join(
                ["variant".ljust(label), "target".ljust(target)]
                + [title.rjust(size) for title, size in zip(COLUMNS, WIDTHS)]
            )
        )
        for model in bundle.models:
            if model["sample"] != name:
                continue
            said = f"{model['label'].ljust(label)} {model['target'].ljust(target)}"
            try:
                row = _measure(bundle, model, sample, pixels, labels, seconds, threads)
            except runtimes.NoRuntimeError as error:
                lacking.append((model["name"], str(error)))
                print(f"{said}  not run: {error}", flush=True)
            except runtimes.RefusedError as error:
                refused.append((model["name"], str(error)))
                print(f"{said}  refused: {error}", flush=True)
            else:
                rows.append(row)
                print(" ".join([said] + [text.rjust(size) for text, size in zip(_cells(row), WIDTHS)]), flush=True)
    if not rows:
        reasons = "; ".join(sorted({reason for _, reason in lacking + refused}))
        raise InputError(f"None of the {len(bundle.models)} models could be run: {reasons}")
    not_run = [{"name": name, "reason": reason} for name, reason in lacking + refused]
    _write(out, dict(about, runtimes=sorted({row["runtime"] for row in rows}), rows=rows, not_run=not_run))
    print(f"\nWritten: {out}    To keep it beside the host's runs: python -m src.import_results {out.name}")
    for name, reason in refused:
        print(f"{name} is refused by its runtime: {reason}", file=sys.stderr)
    return WRONG_INPUT if refused else DONE


def board() -> str:
    """What a board calls itself; elsewhere the processor and the system."""
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
    """Bytes ``[n, c, h, w]`` to float32 of zero mean and unit deviation per channel, as the network was trained."""
    import numpy as np

    mean, std = (np.array(sample[key], np.float32).reshape(1, -1, 1, 1) for key in ("mean", "std"))
    return (pixels.astype(np.float32) - mean * np.float32(255)) * (np.float32(1) / (std * np.float32(255)))


def _measure(
    bundle: Any, model: Dict[str, Any], sample: Dict[str, Any], pixels: Any, labels: Any, seconds: float, threads: int
) -> Dict[str, Any]:
    """A row: accuracy over the sample, latency of one image, and what the sensors show meanwhile."""
    from . import runtimes, sensors, timing

    with tempfile.TemporaryDirectory() as folder:
        path = bundle.extract(model, Path(folder))
        loaded = runtimes.load(path, model["runtime"], model["precision"], sample["image_shape"], threads)
        try:
            hits = _hits(loaded, sample, pixels, labels)
            one = normalize(pixels[:1], sample)
            steady = timing.warm_up(lambda: loaded.run(one), min(WARM_UP_SECONDS, seconds))
            meter = sensors.EnergyMeter()
            meter.start()
            times = timing.timed(lambda: loaded.run(one), seconds)
            joules = meter.stop()
        except runtimes.RefusedError:
            raise
        except Exception as error:  # what a runtime raises on a file that it loaded and cannot run
            raise runtimes.RefusedError(str(error).strip().split("\n")[0] or type(error).__name__)
    spent = sum(times)
    return {
        "name": model["name"],
        "accuracy": hits / len(labels),
        "images": len(labels),
        "size_bytes": model["size_bytes"],
        "latency_ms": timing.percentiles(times),
        "latency_runs": len(times),
        "steady": steady,
        "temperature_celsius": sensors.temperature_celsius(),
        "power_watts": None if joules is None else joules / spent,
        "energy_uj": None if joules is None else 1e6 * joules / len(times),
        "energy_source": None if joules is None else meter.source,
        "runtime": loaded.runtime,
    }


def _hits(loaded: Any, sample: Dict[str, Any], pixels: Any, labels: Any) -> int:
    """How many images are classified rightly."""
    from . import runtimes

    if loaded.batch not in (None, 1):
        raise runtimes.RefusedError(f"it takes {loaded.batch} images at once, and a single one cannot be timed")
    hits, batch = 0, loaded.batch or BATCH
    for start in range(0, len(labels), batch):
        images, wanted = normalize(pixels[start : start + batch], sample), labels[start : start + batch]
        logits = loaded.run(images)
        if logits.ndim != 2 or logits.shape[1] != len(sample["classes"]):
            raise runtimes.RefusedError(
                f"its output is {list(logits.shape)}, and there are {len(sample['classes'])} classes"
            )
        hits += int((logits.argmax(1) == wanted).sum())
    return hits


def _head(pixels: Any, labels: Any, images: str) -> Tuple[Any, Any]:
    """The first of a sample's images, spread over its order, which goes by class in some data sets."""
    import numpy as np

    if images == "all" or int(images) >= len(labels):
        return pixels, labels
    at = np.linspace(0, len(labels) - 1, int(images)).astype(np.int64)
    return pixels[at], labels[at]


def _check(path: Optional[Path], seconds: float, threads: int, images: str, out: Path) -> None:
    if path is None:
        raise InputError("name the bundle to measure: python3 -m device bundle.pyz")
    if not path.is_file():
        raise InputError(f"There is no file {path}")
    if not 0 < seconds < float("inf"):
        raise InputError(f"--seconds must be more than 0, and is {seconds}")
    if threads < 1:
        raise InputError(f"--threads must be at least 1, and is {threads}")
    if images != "all" and not (images.isdecimal() and int(images) > 0):
        raise InputError(f"--images must be a number from 1 or 'all', and is {images}")
    folder = out.resolve().parent
    if not folder.is_dir() or out.is_dir():
        raise InputError(f"--out must name a file in a folder that exists, and is {out}")
    if not os.access(str(folder), os.W_OK):
        raise InputError(f"--out: nothing can be written in {folder}")


def _cells(row: Dict[str, Any]) -> List[str]:
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
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")
        os.replace(str(part), str(path))
    finally:
        if part.exists():
            part.unlink()


if __name__ == "__main__":
    sys.exit(main())
