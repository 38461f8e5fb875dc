"""The Kob-Andersen mixture: two kinds of Lennard-Jones particles that do not crystallise easily.

V_ab(r) = 4 epsilon_ab [(sigma_ab / r)^12 - (sigma_ab / r)^6], cut at 2.5 sigma_ab and shifted to zero there.

Source: Kob and Andersen, Phys. Rev. E 51, 4626 (1995).
"""

from __future__ import annotations

EPSILON = ((1.0, 1.5), (1.5, 0.5))  # epsilon_AA; rows and columns A, B
SIGMA = ((1.0, 0.8), (0.8, 0.88))  # sigma_AA
CUTOFF = 2.5  # sigma_ab
