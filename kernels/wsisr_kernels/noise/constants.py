"""The numbers every version of the noise shares.

The round multipliers and key increments of Philox are those of Salmon, Moraes, Dror and Shaw,
"Parallel random numbers: as easy as 1, 2, 3", SC 2011. The rest are Taylor coefficients.
"""

from __future__ import annotations

import math

ROUNDS = 10
MULTIPLIER_0 = 0xD2511F53
MULTIPLIER_1 = 0xCD9E8D57
WEYL_0 = 0x9E3779B9
WEYL_1 = 0xBB67AE85
WORD = 0xFFFFFFFF

LN2 = math.log(2.0)
SQRT2 = math.sqrt(2.0)
UNIT = 2.0**-32
QUADRANT = 1 << 30
QUARTER_TURN_UNIT = 0.5 * math.pi / QUADRANT

# Enough terms that what is left out is below 1e-12 of the value, far under one float32 rounding.
ATANH = tuple(1.0 / (2 * k + 1) for k in range(9))
SIN = tuple((-1.0) ** k / math.factorial(2 * k + 1) for k in range(7))
COS = tuple((-1.0) ** k / math.factorial(2 * k) for k in range(8))
