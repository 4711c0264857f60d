"""Temperature, clock mode and energy, read from the files in which Linux shows them."""

import re
import subprocess
import threading
import time
from pathlib import Path
from typing import List, Optional, Tuple

SYS = "/sys"
# On a Jetson Nano this zone always reads 100 degrees: a constant, not a sensor.
NO_SENSOR = ("PMIC-Die",)
PLAUSIBLE = (0.0, 150.0)  # degrees; a sensor that is switched off shows a value outside
SAMPLING_SECONDS = 0.01  # between two readings of power


def temperature_celsius(sys: str = SYS) -> Optional[float]:
    """Temperature of the hottest thermal zone; None if the machine shows none."""
    found = []
    for pattern in ("class/thermal/thermal_zone*", "devices/virtual/thermal/thermal_zone*"):
        for zone in Path(sys).glob(pattern):
            degrees = _number(zone / "temp")
            if degrees is not None and _text(zone / "type") not in NO_SENSOR:
                found.append(degrees / 1000)
    plausible = [degrees for degrees in found if PLAUSIBLE[0] < degrees < PLAUSIBLE[1]]
    return max(plausible) if plausible else None


def clock_mode(sys: str = SYS) -> Optional[str]:
    """A Jetson's power mode (``nvpmodel -q``), else the governor of the first processor; None if there is neither."""
    try:
        printed = subprocess.run(
            ["nvpmodel", "-q"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=10,
            check=False,
        ).stdout.decode(errors="replace")
    except (OSError, subprocess.TimeoutExpired):
        printed = ""
    mode = re.search(r"NV Power Mode:\s*(\S+)", printed)
    return mode.group(1) if mode else _text(Path(sys) / "devices/system/cpu/cpu0/cpufreq/scaling_governor")


class EnergyMeter:
    """Energy between ``start`` and ``stop`` of the whole board or processor, with everything that runs on it.

    On a Jetson, a thread samples the power at the board's input (or of all rails if none is the input); on other
    machines, the processor packages count their energy themselves.

    Args:
        sys: Folder in which the system shows its sensors.

    Attributes:
        source: ``INA3221``, ``RAPL``, or None if neither can be read.
    """

    def __init__(self, sys: str = SYS) -> None:
        self._rails = _rails(Path(sys))
        self._packages = [] if self._rails else _packages(Path(sys))
        self.source: Optional[str] = "INA3221" if self._rails else "RAPL" if self._packages else None
        self._before: List[Optional[float]] = []
        self._samples: List[Tuple[float, float]] = []
        self._stopped = threading.Event()
        self._thread: Optional[threading.Thread] = None

    def start(self) -> None:
        """Start counting."""
        if self._rails:
            self._samples = []
            self._stopped.clear()
            self._sample()
            self._thread = threading.Thread(target=self._keep_sampling, daemon=True)
            self._thread.start()
        self._before = [_number(package / "energy_uj") for package in self._packages]

    def stop(self) -> Optional[float]:
        """Joules since ``start``; None if there is no sensor, or it can no longer be read."""
        if self._thread is not None:
            self._stopped.set()
            self._thread.join()
            self._thread = None
            self._sample()
            return self._sampled_joules()
        return self._counted_joules()

    def _keep_sampling(self) -> None:
        while not self._stopped.wait(SAMPLING_SECONDS):
            self._sample()

    def _sample(self) -> None:
        milliwatts = [_number(rail) for rail in self._rails]
        if None not in milliwatts:
            self._samples.append((time.perf_counter(), sum(value or 0.0 for value in milliwatts) / 1000))

    def _sampled_joules(self) -> Optional[float]:
        pairs = list(zip(self._samples, self._samples[1:]))
        return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairs) if pairs else None

    def _counted_joules(self) -> Optional[float]:
        joules = 0.0
        for package, before in zip(self._packages, self._before):
            after, largest = _number(package / "energy_uj"), _number(package / "max_energy_range_uj")
            if before is None or after is None or (after < before and largest is None):
                return None
            joules += (after - before + (largest or 0.0) * (after < before)) / 1e6
        return joules if self._before else None


def _rails(sys: Path) -> List[Path]:
    """Files with the power in mW of a Jetson's input; of all its rails if none is called an input."""
    readable = [
        path
        for path in sorted(sys.glob("bus/i2c/drivers/ina3221x/*/iio:device*/in_power*_input"))
        if _number(path) is not None
    ]
    names = {
        path: _text(path.with_name(path.name.replace("in_power", "rail_name_")[: -len("_input")])) for path in readable
    }
    inputs = [path for path in readable if (names[path] or "").endswith("_IN")]
    return inputs or readable


def _packages(sys: Path) -> List[Path]:
    """Processor packages whose counter can be read; parts and the platform, which count the same, are left out."""
    zones = [zone for zone in sorted(sys.glob("class/powercap/intel-rapl:*")) if zone.name.count(":") == 1]
    return [
        zone
        for zone in zones
        if (_text(zone / "name") or "").startswith("package") and _number(zone / "energy_uj") is not None
    ]


def _text(path: Path) -> Optional[str]:
    try:
        return path.read_text().strip() or None
    except (OSError, ValueError):
        return None


def _number(path: Path) -> Optional[float]:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None
