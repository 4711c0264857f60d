"""Context mixing: several adaptive models predict a bit, and an online logistic mixer weighs them.

Each model is a slot that counts how often the bit was 1 in its context. The mixer adds their logits with weights that
it learns by gradient descent on the cost in bits, so that a model that predicts well gains weight within a few hundred
bits. Two sets of weights, chosen by two small contexts, are averaged.

Paper: Mahoney 2005, "Adaptive weighing of context models for lossless data compression", Florida Tech. TR CS-2005-16.
Deviations: probabilities are float64, made of operations that every machine rounds alike (``tables``).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from src.coding.arithmetic import Coder, code_bit
from src.coding.compiled import inlined
from src.coding.tables import LIMIT, PROBABILITIES, STEPS, squash_table, stretch_table

INPUTS = 24  # of the mixer, at most
SETS = 512  # of weights
ALONE = 400  # the first set of those for bits with one model
REGION = 4096  # contexts of one model, at most
REGIONS = 40
MEMORY = 250  # bits that a slot remembers
COST = 0  # place in ``totals`` of the bits so far


class Mixer(NamedTuple):
    """What the mixer has learnt.

    Attributes:
        chance: float64 ``[REGIONS * REGION]``: probability of a 1 in each context.
        seen: int32, of the same length: bits seen in it.
        weights: float64 ``[SETS, INPUTS]``.
        inputs: float64 ``[INPUTS]``: logits that are mixed for the bit at hand.
        slots: int64 ``[INPUTS]``: contexts that gave the first of them.
        choice: int64 ``[4]``: number of slots, of all inputs, and the two sets of weights.
        totals: float64 ``[1]``: bits that all so far cost.
        stretch, squash: The tables.
    """

    chance: np.ndarray
    seen: np.ndarray
    weights: np.ndarray
    inputs: np.ndarray
    slots: np.ndarray
    choice: np.ndarray
    totals: np.ndarray
    stretch: np.ndarray
    squash: np.ndarray


def mixer() -> Mixer:
    """A mixer that has seen nothing."""
    return Mixer(
        np.full(REGIONS * REGION, 0.5),
        np.zeros(REGIONS * REGION, np.int32),
        _first_weights(),
        np.zeros(INPUTS),
        np.zeros(INPUTS, np.int64),
        np.zeros(4, np.int64),
        np.zeros(1),
        stretch_table(),
        squash_table(),
    )


def _first_weights() -> np.ndarray:
    """Weights before anything is learnt: little of each of many models, all of a model that stands alone."""
    weights = np.full((SETS, INPUTS), 0.1)
    weights[ALONE:] = 1.0
    return weights


@inlined
def stretched(mixer: Mixer, p: float) -> float:
    """The logit of a probability."""
    return mixer.stretch[min(PROBABILITIES - 1, max(0, int(p * PROBABILITIES)))]


@inlined
def squashed(mixer: Mixer, x: float) -> float:
    """The probability of a logit, interpolated in the table."""
    x = min(LIMIT - 1e-6, max(-LIMIT, x))
    at = (x + LIMIT) * (STEPS / (2.0 * LIMIT))
    left = int(at)
    share = at - left
    return mixer.squash[left] * (1.0 - share) + mixer.squash[left + 1] * share


@inlined
def mix_bit(mixer: Mixer, coder: Coder, bit: int, rate: float) -> int:
    """Predict a bit from ``mixer.slots`` and ``mixer.inputs``, code it, and learn from it.

    Args:
        mixer: Its ``choice``, that many slots, and the inputs behind those are set.
        coder: Writes or reads the bit.
        bit: 0 or 1; a decoder ignores it.
        rate: How fast the weights learn.
    """
    x, at = mixer.inputs, mixer.slots
    slots, inputs, first, second = mixer.choice[0], mixer.choice[1], mixer.choice[2], mixer.choice[3]
    for i in range(slots):
        slot = at[i]
        n = mixer.seen[slot]
        x[i] = stretched(mixer, mixer.chance[slot]) * ((n + 0.1) / (n + 1.1))
    one, two = mixer.weights[first], mixer.weights[second]
    total_one, total_two = 0.0, 0.0
    for i in range(inputs):
        total_one += one[i] * x[i]
        total_two += two[i] * x[i]
    p = squashed(mixer, 0.5 * (total_one + total_two))
    quantized = min(65535, max(1, int(p * 65536.0)))
    bit = code_bit(coder, bit, quantized)
    mixer.totals[COST] -= math.log2((quantized if bit else 65536 - quantized) / 65536.0)
    error_one = (bit - squashed(mixer, total_one)) * rate
    error_two = (bit - squashed(mixer, total_two)) * rate
    for i in range(inputs):
        one[i] += error_one * x[i]
        two[i] += error_two * x[i]
    for i in range(slots):
        slot = at[i]
        n = mixer.seen[slot]
        mixer.chance[slot] += (bit - mixer.chance[slot]) / (n + 1.5)
        if n < MEMORY:
            mixer.seen[slot] = n + 1
    return bit
