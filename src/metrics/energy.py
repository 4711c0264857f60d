"""Energy of one image, estimated by counting, for machines without a sensor."""

from __future__ import annotations

from src.contracts import Graph
from src.metrics.graph import integer_macs, macs, moved_activation_bytes, weight_bytes

# Picojoules in 45 nm CMOS at 0.9 V: a multiplication and an addition (integers are added in 32 bits); a byte moved.
MAC_PJ = {"float32": 3.7 + 0.9, "float16": 1.1 + 0.4, "bf16": 1.1 + 0.4, "int8": 0.2 + 0.1}
SRAM_PJ_PER_BYTE = 5.0 / 4
DRAM_PJ_PER_BYTE = 640.0 / 4


def energy_uj_estimate(graph: Graph, arithmetic: str) -> float:
    """Microjoules of one image: arithmetic, weights read once from DRAM, activations moved through SRAM.

    The figure compares files; it is not what a processor draws. Caches, control and idle parts are left out, zeros cost
    as much as other values, and bf16 counts as float16.

    Args:
        graph: Graph of the exported file.
        arithmetic: Number format of what is not computed in 8-bit integers: ``float32``, ``float16`` or ``bf16``.

    Paper: Horowitz 2014, Computing's energy problem (and what we can do about it), ISSCC, figure 1.1.9; its SRAM and
    DRAM figures as in Han et al. 2016, arXiv:1510.00149, section 1.
    """
    integer = integer_macs(graph)
    picojoules = integer * MAC_PJ["int8"] + (macs(graph) - integer) * MAC_PJ[arithmetic]
    picojoules += DRAM_PJ_PER_BYTE * weight_bytes(graph) + SRAM_PJ_PER_BYTE * moved_activation_bytes(graph)
    return picojoules / 1e6
