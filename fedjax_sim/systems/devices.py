"""How fast devices compute: 333 phones of the AI Benchmark list, relative to their median."""

from __future__ import annotations

import numpy as np

from fedjax_sim.core.checks import InputError, number

# `CPU_F_AI_Score` (floating-point networks on the phone's CPU, which is where phones train) of
# every entry of `raw_ai_benchmark_list.json`, ascending. From the FLASH repository (Yang et al.,
# 2021, arXiv:2006.06983), BSD-2; the scores are the AI Benchmark's, of 2020. Held to the raw file
# by tests/systems/test_devices.py.
_SCORES = """
105 113 115 117 123 134 143 154 192 202 205 207 208 208 209 212 213 222 224 226 232 232 235
240 241 244 250 254 257 262 263 269 274 274 275 277 278 278 281 282 282 284 284 288 290 291
293 301 307 309 312 314 329 334 343 344 347 347 357 359 377 381 381 381 383 387 389 397 407
421 435 445 448 450 458 464 478 482 544 552 553 556 556 568 592 595 596 596 599 600 605 612
621 626 666 723 726 735 752 754 755 766 785 786 791 796 801 804 861 1041 1066 1071 1078 1081
1086 1132 1140 1148 1149 1194 1195 1197 1251 1278 1292 1292 1299 1301 1302 1302 1306 1309 1319
1329 1330 1335 1336 1342 1400 1400 1402 1402 1406 1408 1409 1419 1426 1435 1442 1445 1445 1454
1454 1474 1481 1490 1491 1495 1502 1502 1503 1513 1516 1517 1518 1546 1548 1549 1549 1552 1552
1555 1567 1568 1569 1581 1582 1589 1595 1611 1612 1615 1634 1638 1641 1643 1649 1652 1657 1658
1668 1673 1677 1680 1680 1680 1685 1686 1690 1696 1698 1707 1723 1756 1757 1762 1774 1781 1786
1796 1813 1858 1875 1894 1897 1914 1929 1943 1950 1968 1977 1980 1983 1986 1997 2000 2004 2007
2010 2015 2024 2029 2034 2037 2038 2053 2056 2057 2067 2082 2106 2108 2112 2127 2135 2141 2143
2150 2150 2154 2174 2178 2185 2187 2192 2212 2214 2221 2223 2242 2282 2283 2324 2388 2546 2568
2657 2713 2717 2740 2751 2757 2759 2769 2808 2842 2943 2997 3019 3027 3031 3047 3058 3079 3093
3098 3119 3120 3135 3149 3150 3183 3207 3211 3212 3229 3254 3287 3304 3441 3457 3466 3471 3483
3484 3484 3485 3489 3496 3534 3558 3603 3644 3657 3675 3689 3695 3695 3734 3744 3750 3800 3813
3890 3943 3946 4046 4062 4147 4203 4204 4243 4310
"""

MEDIAN_FLOPS = 2e9
"""FLOP/s of the median phone while it trains: an assumption.

FLASH measured 588 ms for a batch of its FEMNIST network on a Redmi Note 8, whose score (1546) is
that of the median phone (1548). If that batch is of 10 examples (LEAF's), it is about 1.03e9
operations, and the phone does 1.8e9 a second.
"""


def phones() -> np.ndarray:
    """Relative speeds of 333 phones, ascending, the median being 1.

    The slowest has 0.07 and the fastest 2.8 of the median: a factor of 41.

    Returns:
      float64 `[333]`.

    Example:
      >>> speeds = phones()
      >>> [round(float(v), 2) for v in (speeds[0], speeds[166], speeds[-1])]
      [0.07, 1.0, 2.78]

    Reference: Yang et al., Characterizing Impacts of Heterogeneity in Federated Learning upon
      Large-Scale Smartphone Data, 2021, arXiv:2006.06983. They map a phone to the nearest of three
      that they measured, by `AI_Score`; here each phone has a speed of its own, by the score of
      its CPU alone.
    """
    scores = np.array(_SCORES.split(), float)
    return scores / np.median(scores)


def speeds_at(quantiles: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Speeds of a table at quantiles: an entry each, none between two.

    Args:
      quantiles: float `[N]` in [0, 1).
      table: positive relative speeds `[M]`, in any order.

    Returns:
      float64 `[N]`.

    Raises:
      InputError: an empty table, or a speed that is not positive.

    Cost: O(M log M + N).
    """
    table = np.sort(np.asarray(table, float).ravel())
    if not table.size:
        raise InputError("devices", "an empty table", "must hold at least one speed")
    number("devices", table, above=0)
    index = (np.asarray(quantiles) * table.size).astype(np.int64)
    return table[np.clip(index, 0, table.size - 1)]
