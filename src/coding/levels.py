"""The model of a matrix of levels: what its rows, columns and neighbours say of the next level.

A level is an integer: 0 for a weight that is zero, the step's multiple or the rank in a codebook for others. It is
coded as binary decisions: is it zero, its sign, is its size more than 1, more than 2, ... Each decision is predicted by
several models (see ``mixing``): how dense the column and the row were so far, the neighbours along both, the neighbours
in the image's plane and their columns, the same place in the filter before, the channel's block.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from src.coding.arithmetic import AT, DECODES, END, LONGEST_OVERRUN, OVERRUN, Coder
from src.coding.compiled import entry, inlined
from src.coding.mixing import COST, REGION, Mixer, mix_bit, stretched

ZERO, SIGN, SIZE, TAIL = 0, 12, 20, 32  # first region of each kind of decision
ZERO_SETS, SIGN_SETS, SIZE_SETS, TAIL_SETS = 0, 100, 200, 400  # first set of weights of each
ROOM_OF_A_LEVEL = 64  # bytes
UNARY = 18  # sizes from here on are coded by their number of bits
RATES = (0.02, 0.002)  # of the mixer's weights: at first, and in the end


class Matrix(NamedTuple):
    """A matrix of levels, and what is known of the part that is coded.

    Attributes:
        levels: int32 ``[rows * columns]``.
        shape: int64 ``[4]``: rows, columns, width of the image's plane, elements of the plane.
        counts: int32 ``[columns]``: levels of the column that are not zero.
        sizes: int32 ``[columns]``: sum of their sizes.
        signs: int32 ``[columns]``: sum of their signs.
        recent: float64 ``[columns]``: share of levels that are not zero, recent ones weighing more.
        blocks: int32 ``[2, channels]``: levels that are not zero in the channel, in the row before and in all rows.
        rows_used, columns_used: uint8 ``[rows]`` and ``[columns]``: 0 where all levels are zero and none is coded.
        near: int64 ``[11]``: the neighbours of the place at hand.
        row: float64 ``[9]``: the same of the row: count, sizes, signs, recent, recent size, count of the block,
            all levels coded and those not zero, share of levels not zero of the row before.
        costs: float32, of the length of ``levels`` or none: bits that each level took.
    """

    levels: np.ndarray
    shape: np.ndarray
    counts: np.ndarray
    sizes: np.ndarray
    signs: np.ndarray
    recent: np.ndarray
    blocks: np.ndarray
    rows_used: np.ndarray
    columns_used: np.ndarray
    near: np.ndarray
    row: np.ndarray
    costs: np.ndarray


COUNT, SIZES, SIGNS, RECENT, RECENT_SIZE, BLOCK, ALL, NONZERO, LAST = range(9)
LEFT, LEFT2, LEFT3, UP, UP2, UP3, ABOVE, ABOVE2, CORNER, CORNER2, AROUND = range(11)


def matrix(levels: np.ndarray, width: int, plane: int, *, costs: bool = False) -> Matrix:
    """A matrix of which nothing is coded yet.

    Args:
        levels: int32 ``[rows, columns]``; a decoder overwrites them.
        width: Columns from one line of the image to the next; 1 if the columns are no image.
        plane: Columns of one channel's image, a divisor of the number of columns; 1 if there is none.
        costs: Whether the bits of each level are kept.
    """
    rows, columns = levels.shape
    channels = columns // plane
    return Matrix(
        levels.reshape(-1),
        np.array([rows, columns, width, plane], np.int64),
        np.zeros(columns, np.int32),
        np.zeros(columns, np.int32),
        np.zeros(columns, np.int32),
        np.zeros(columns),
        np.zeros((2, channels), np.int32),
        (levels != 0).any(1).astype(np.uint8),
        (levels != 0).any(0).astype(np.uint8),
        np.zeros(11, np.int64),
        np.zeros(9),
        np.zeros(levels.size if costs else 0, np.float32),
    )


@inlined
def density(count: float, total: float) -> int:
    """The share ``count / total`` in 24 logarithmic steps, and how sure it is in 8."""
    share = (count + 0.4) / (total + 1.0)
    step, bound = 0, 0.7
    while step < 23 and share < bound:
        bound *= 0.75
        step += 1
    sure, bound = 0, 2.0
    while sure < 7 and total >= bound:
        bound *= 2.5
        sure += 1
    return step * 8 + sure


@inlined
def bucket(value: float, unit: float) -> int:
    """``value`` in 16 logarithmic steps from ``unit``, each 1.5 times the last."""
    step = 0
    while step < 15 and value >= unit:
        unit *= 1.5
        step += 1
    return step


@inlined
def look(m: Matrix, r: int, c: int) -> None:
    """Read the neighbours of a place: zero outside the matrix, and outside the plane for those of the plane."""
    levels, near, columns, width, plane = m.levels, m.near, m.shape[1], m.shape[2], m.shape[3]
    here = r * columns + c
    near[LEFT] = levels[here - 1] if c > 0 else 0
    near[LEFT2] = levels[here - 2] if c > 1 else 0
    near[LEFT3] = levels[here - 3] if c > 2 else 0
    near[UP] = levels[here - columns] if r > 0 else 0
    near[UP2] = levels[here - 2 * columns] if r > 1 else 0
    near[UP3] = levels[here - 3 * columns] if r > 2 else 0
    place = c % plane
    x, y = place % width, place // width
    near[ABOVE] = levels[here - width] if y > 0 else 0
    near[ABOVE2] = levels[here - 2 * width] if y > 1 else 0
    near[CORNER] = levels[here - width - 1] if y > 0 and x > 0 else 0
    near[CORNER2] = levels[here - width + 1] if y > 0 and x + 1 < width else 0
    around = 0
    around += m.counts[c - 1] if c > 0 else 0
    around += m.counts[c + 1] if c + 1 < columns else 0
    around += m.counts[c - width] if c >= width else 0
    around += m.counts[c + width] if c + width < columns else 0
    near[AROUND] = around


@inlined
def code_zero(mixer: Mixer, coder: Coder, m: Matrix, r: int, c: int, bit: int, rate: float) -> int:
    """Code whether the level is not zero."""
    row, near, slots, inputs, choice = m.row, m.near, mixer.slots, mixer.inputs, mixer.choice
    plane = m.shape[3]
    channel = c // plane
    l1, l2, l3 = min(1, abs(near[LEFT])), min(1, abs(near[LEFT2])), min(1, abs(near[LEFT3]))
    u1, u2, u3 = min(1, abs(near[UP])), min(1, abs(near[UP2])), min(1, abs(near[UP3]))
    p1, p2, p3 = min(1, abs(near[ABOVE])), min(1, abs(near[CORNER])), min(1, abs(near[CORNER2]))
    of_column, of_row = density(float(m.counts[c]), float(r)), density(row[COUNT], float(c))
    of_around, block = (
        density(float(near[AROUND]), 4.0 * r) // 8,
        density(float(m.blocks[1, channel]), float(r * plane)) // 8,
    )
    slots[0] = of_column
    slots[1] = of_row
    slots[2] = l1 + 2 * l2 + 4 * l3 + 8 * u1 + 16 * min(2, abs(near[LEFT]))
    slots[3] = u1 + 2 * u2 + 4 * u3 + 8 * l1 + 16 * min(2, abs(near[UP]))
    slots[4] = bucket(row[RECENT], 0.005) * 16 + bucket(m.recent[c], 0.005)
    slots[5] = p1 + 2 * p2 + 4 * p3 + 8 * l1 + 16 * u1 + 32 * min(1, abs(near[ABOVE2])) + 64 * l2
    slots[6] = of_around * 24 + of_column // 8
    slots[7] = (min(7, bucket(row[BLOCK], 1.0)) * 8 + min(7, bucket(float(m.blocks[0, channel]), 1.0))) * 24 + block
    slots[8] = min(c % plane, REGION - 1)
    slots[9] = of_row // 8 * 24 + of_column // 8
    for i in range(10):
        slots[i] += (ZERO + i) * REGION
    overall = (row[NONZERO] + 0.4) / (row[ALL] + 1.0)
    inputs[10] = stretched(mixer, overall)
    inputs[11] = stretched(mixer, (m.counts[c] + 2.0 * overall) / (r + 2.0))
    inputs[12] = stretched(mixer, (row[COUNT] + 8.0 * overall) / (c + 8.0))
    inputs[13] = stretched(mixer, (m.counts[c] + 0.5 * near[AROUND] + 4.0 * overall) / (3.0 * r + 4.0))
    inputs[14] = stretched(mixer, (row[COUNT] + 8.0 * row[LAST]) / (c + 8.0))
    inputs[15] = 0.3
    first = ZERO_SETS + min(3, bucket(float(r), 2.0)) * 5 + p1 + p2 + p3 + l1
    choice[0] = 10
    choice[1] = 16
    choice[2] = first
    choice[3] = ZERO_SETS + 20 + of_column // 8
    return mix_bit(mixer, coder, bit, rate)


@inlined
def sign_of(value: int) -> int:
    """0, 1 or 2 for a level that is zero, positive or negative."""
    return 0 if value == 0 else (1 if value > 0 else 2)


@inlined
def code_sign(mixer: Mixer, coder: Coder, m: Matrix, r: int, c: int, bit: int, rate: float) -> int:
    """Code whether the level is negative."""
    near, slots, choice = m.near, mixer.slots, mixer.choice
    left, up, above = sign_of(near[LEFT]), sign_of(near[UP]), sign_of(near[ABOVE])
    slots[0] = 0
    slots[1] = left + 3 * sign_of(near[LEFT2]) + 9 * up
    slots[2] = above + 3 * left + 9 * sign_of(near[CORNER])
    slots[3] = (min(8, max(-8, m.signs[c])) + 8) * 8 + min(7, bucket(float(m.counts[c]), 1.0))
    slots[4] = (min(8, max(-8, int(m.row[SIGNS] * 0.5))) + 8) * 8 + min(7, bucket(m.row[COUNT], 1.0))
    slots[5] = up + 3 * sign_of(near[UP2]) + 9 * above
    slots[6] = min(c % m.shape[3], REGION - 1)
    for i in range(7):
        slots[i] += (SIGN + i) * REGION
    mixer.inputs[7] = 0.3
    first = SIGN_SETS + min(1, above) + 2 * min(1, left)
    choice[0] = 7
    choice[1] = 8
    choice[2] = first
    choice[3] = SIGN_SETS + 8 + min(1, up)
    return mix_bit(mixer, coder, bit, rate)


@inlined
def code_size(mixer: Mixer, coder: Coder, m: Matrix, r: int, c: int, negative: int, size: int, rate: float) -> int:
    """Code the size of a level that is not zero."""
    near, slots, choice = m.near, mixer.slots, mixer.choice
    sizes = min(3, abs(near[LEFT])) + 4 * min(3, abs(near[UP])) + 16 * min(3, abs(near[ABOVE]))
    of_column = min(11, bucket((m.sizes[c] + 0.5) / (m.counts[c] + 0.5), 1.0))
    of_row = min(11, bucket((m.row[SIZES] + 0.5) / (m.row[COUNT] + 0.5), 1.0))
    recent = bucket(m.row[RECENT_SIZE], 1.0)
    empty = min(7, bucket(m.row[RECENT], 0.01)) * 8 + min(7, bucket(m.recent[c], 0.01))
    for k in range(1, UNARY):
        slots[0] = k * 2 + negative
        slots[1] = k * 64 + sizes
        slots[2] = k * 16 + of_column
        slots[3] = k * 16 + of_row
        slots[4] = k * 16 + recent
        slots[5] = k * 64 + empty
        slots[6] = k * 64 + min(63, c % m.shape[3])
        slots[7] = k * 144 + of_column * 12 + of_row
        for i in range(8):
            slots[i] += (SIZE + i) * REGION
        mixer.inputs[8] = 0.3
        second = SIZE_SETS + 50 + min(recent, 7) + 8 * min(k, 5)
        choice[0] = 8
        choice[1] = 9
        choice[2] = SIZE_SETS + k
        choice[3] = second
        if mix_bit(mixer, coder, 1 if size > k else 0, rate) == 0:
            return k
    return UNARY + code_tail(mixer, coder, size - UNARY, rate)


@inlined
def code_tail(mixer: Mixer, coder: Coder, rest: int, rate: float) -> int:
    """Code a whole number by its number of bits, and these."""
    length, value, k, choice = 0, 1, -1, mixer.choice
    choice[0] = 1
    choice[1] = 1
    choice[2] = TAIL_SETS
    choice[3] = TAIL_SETS
    while k < length:
        mixer.slots[0] = TAIL * REGION + length
        bit = 1 if (rest + 1) >> (length + 1) > 0 else 0
        if k >= 0:
            mixer.slots[0] = (TAIL + 1) * REGION + length * 16 + min(k, 3) * 4 + (value & 3 if k < 3 else 0)
            bit = ((rest + 1) >> (length - 1 - k)) & 1
        bit = mix_bit(mixer, coder, bit, rate)
        if k >= 0:
            value = value * 2 + bit
            k += 1
        elif bit == 1 and length < 30:
            length += 1
        else:
            k = 0
    return value - 1


@inlined
def remember(m: Matrix, r: int, c: int, level: int) -> None:
    """Add a level that was coded to what is known."""
    row, nonzero = m.row, 1.0 if level else 0.0
    row[RECENT] += (nonzero - row[RECENT]) * 0.06
    m.recent[c] += (nonzero - m.recent[c]) * 0.12
    row[ALL] += 1
    if level:
        size, sign = abs(level), 1 if level > 0 else -1
        m.counts[c] += 1
        m.sizes[c] += size
        m.signs[c] += sign
        row[COUNT] += 1
        row[SIZES] += size
        row[SIGNS] += sign
        row[RECENT_SIZE] += (size - row[RECENT_SIZE]) * 0.2
        row[BLOCK] += 1
        row[NONZERO] += 1


@inlined
def end_block(m: Matrix, channel: int) -> None:
    """Note how many levels of a channel's block in this row are not zero, and begin the next."""
    if channel >= 0:
        m.blocks[0, channel] = int(m.row[BLOCK])
        m.blocks[1, channel] += int(m.row[BLOCK])
    m.row[BLOCK] = 0.0


@entry
def code_rows(mixer: Mixer, coder: Coder, m: Matrix, start: int) -> int:
    """Write or read the rows of a matrix from ``start`` on.

    Returns:
        The row behind the last that was coded: less than all if an encoder has no room; -1 if the stream was cut off.
    """
    for r in range(start, m.shape[0]):
        if coder.state[DECODES] == 0 and coder.state[END] - coder.state[AT] < m.shape[1] * ROOM_OF_A_LEVEL:
            return r
        m.row[LAST] = (m.row[COUNT] + 0.4) / (m.shape[1] + 1.0)
        m.row[:ALL] = 0.0
        for c in range(m.shape[1]):
            if (c % m.shape[3]) == 0:
                end_block(m, c // m.shape[3] - 1)
            if m.rows_used[r] == 0 or m.columns_used[c] == 0:
                continue
            place = r * m.shape[1] + c
            before = mixer.totals[COST]
            rate = max(RATES[1], RATES[0] / (1.0 + m.row[ALL] * 0.002))
            level = np.int64(m.levels[place])
            look(m, r, c)
            if code_zero(mixer, coder, m, r, c, 1 if level else 0, rate) == 1:
                negative = code_sign(mixer, coder, m, r, c, 1 if level < 0 else 0, rate)
                level = code_size(mixer, coder, m, r, c, negative, abs(level), rate)
                level = -level if negative == 1 else level
            else:
                level = np.int64(0)
            m.levels[place] = level
            remember(m, r, c, level)
            if m.costs.size:
                m.costs[place] = mixer.totals[COST] - before
        end_block(m, m.shape[1] // m.shape[3] - 1)
        if coder.state[OVERRUN] > LONGEST_OVERRUN:
            return -1
    return m.shape[0]
