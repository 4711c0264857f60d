"""Sensors, read from folders laid out as Linux and a Jetson Nano lay them out."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from src.device.sensors import EnergyMeter, clock_mode, temperature_celsius


def lay_out(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return str(root)


def zones(**degrees: str) -> dict[str, str]:
    files = {}
    for at, (kind, value) in enumerate(degrees.items()):
        folder = f"devices/virtual/thermal/thermal_zone{at}"
        files |= {f"{folder}/type": kind.replace("_", "-"), f"{folder}/temp": value}
    return files


RAILS = "bus/i2c/drivers/ina3221x/6-0040/iio:device0"
NANO = {
    f"{RAILS}/rail_name_0": "POM_5V_IN",
    f"{RAILS}/rail_name_1": "POM_5V_GPU",
    f"{RAILS}/rail_name_2": "POM_5V_CPU",
    f"{RAILS}/in_power0_input": "2000",
    f"{RAILS}/in_power1_input": "300",
    f"{RAILS}/in_power2_input": "700",
}
PACKAGE = "class/powercap/intel-rapl:0"


def rapl(**energies: str) -> dict[str, str]:
    return {
        f"{PACKAGE}/name": "package-0",
        f"{PACKAGE}/energy_uj": energies.get("package", "1000000"),
        f"{PACKAGE}/max_energy_range_uj": "262143328850",
        f"{PACKAGE}:0/name": "core",
        f"{PACKAGE}:0/energy_uj": energies.get("core", "5000000"),
        f"{PACKAGE}:0/max_energy_range_uj": "262143328850",
        "class/powercap/intel-rapl:1/name": "psys",
        "class/powercap/intel-rapl:1/energy_uj": "9000000",
        "class/powercap/intel-rapl:1/max_energy_range_uj": "262143328850",
    }


def assert_watts(meter: EnergyMeter, watts: float) -> None:
    """A constant power over what the meter ran: a tenth of a second and a little."""
    started = time.perf_counter()
    meter.start()
    time.sleep(0.1)
    joules = meter.stop()
    assert joules is not None
    assert 0.1 * watts <= joules <= watts * (time.perf_counter() - started)


def test_the_hottest_zone_is_the_temperature_and_a_jetsons_constant_is_none(tmp_path: Path) -> None:
    root = lay_out(tmp_path, zones(CPU_therm="41500", GPU_therm="43000", PMIC_Die="100000", off="-256000"))
    assert temperature_celsius(root) == 43.0


def test_zones_of_the_class_folder_are_read_too(tmp_path: Path) -> None:
    root = lay_out(
        tmp_path, {"class/thermal/thermal_zone0/type": "x86_pkg_temp", "class/thermal/thermal_zone0/temp": "61000"}
    )
    assert temperature_celsius(root) == 61.0


@pytest.mark.parametrize("files", [{}, zones(broken="no number")], ids=["none", "unreadable"])
def test_without_a_sensor_there_is_no_temperature(tmp_path: Path, files: dict[str, str]) -> None:
    assert temperature_celsius(lay_out(tmp_path, files)) is None


def test_a_jetson_names_its_power_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "bin" / "nvpmodel"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\n[ \"$1\" = -q ] && printf 'NV Fan Mode:quiet\\nNV Power Mode: MAXN\\n0\\n'\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(command.parent), prepend=":")
    assert clock_mode(str(tmp_path)) == "MAXN"


def test_on_other_machines_the_governor_is_the_clock_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    root = lay_out(tmp_path, {"devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance"})
    assert clock_mode(root) == "performance"


def test_without_either_there_is_no_clock_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert clock_mode(str(tmp_path)) is None


def test_a_jetson_counts_the_input_of_the_board_and_not_its_rails_again(tmp_path: Path) -> None:
    meter = EnergyMeter(lay_out(tmp_path, NANO))
    assert meter.source == "INA3221"
    assert_watts(meter, 2.0)


def test_all_rails_are_summed_if_none_is_the_input(tmp_path: Path) -> None:
    meter = EnergyMeter(lay_out(tmp_path, {**NANO, f"{RAILS}/rail_name_0": "SOC"}))
    assert_watts(meter, 3.0)


def test_power_that_changes_is_followed(tmp_path: Path) -> None:
    root = lay_out(tmp_path, NANO)
    meter = EnergyMeter(root)
    started = time.perf_counter()
    meter.start()
    time.sleep(0.1)
    lay_out(tmp_path, {f"{RAILS}/in_power0_input": "6000"})
    time.sleep(0.1)
    joules = meter.stop()
    elapsed = time.perf_counter() - started
    assert 2 * elapsed + 4 * 0.09 < joules < 6 * elapsed - 4 * 0.09


def test_a_meter_starts_again_from_nothing(tmp_path: Path) -> None:
    meter = EnergyMeter(lay_out(tmp_path, NANO))
    for _ in range(2):
        assert_watts(meter, 2.0)


def test_the_packages_count_and_neither_their_parts_nor_the_platform(tmp_path: Path) -> None:
    meter = EnergyMeter(lay_out(tmp_path, rapl()))
    assert meter.source == "RAPL"
    meter.start()
    lay_out(tmp_path, rapl(package="3500000", core="99000000"))
    assert meter.stop() == pytest.approx(2.5)


def test_a_counter_that_overflows_is_followed(tmp_path: Path) -> None:
    meter = EnergyMeter(lay_out(tmp_path, rapl(package="262143000000")))
    meter.start()
    lay_out(tmp_path, rapl(package="500000"))
    assert meter.stop() == pytest.approx((262143328850 - 262143000000 + 500000) / 1e6)


def test_without_a_sensor_there_is_no_energy(tmp_path: Path) -> None:
    meter = EnergyMeter(str(tmp_path))
    assert meter.source is None
    meter.start()
    assert meter.stop() is None


def test_a_counter_that_goes_away_meanwhile_gives_none(tmp_path: Path) -> None:
    meter = EnergyMeter(lay_out(tmp_path, rapl()))
    meter.start()
    (tmp_path / PACKAGE / "energy_uj").unlink()
    assert meter.stop() is None
