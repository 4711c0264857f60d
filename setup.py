"""The packages of the wheel: those of ``src``, and ``conf/`` as ``src/conf``, where the commands look for it first."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["src*"]), "src.conf"],
    package_dir={"src.conf": "conf"},
    package_data={"src.conf": ["**/*.yaml"], "src.reporting": ["assets/*"]},
)
