"""Parameters of the Kob-Andersen mixture; rows and columns are A and B.

Source: Kob and Andersen, Phys. Rev. E 51, 4626 (1995).
"""

from __future__ import annotations

EPSILON = ((1.0, 1.5), (1.5, 0.5))  # epsilon_AA, depths
SIGMA = ((1.0, 0.8), (0.8, 0.88))  # sigma_AA, diameters
CUTOFF = 2.5  # sigma_ab
