"""A backend that gives NaN in one call, as a broken model would."""

from __future__ import annotations

import torch

from svg import backends


class Spoiled:
    """The model of FP8, whose query holds NaN in one call."""

    name, precision = "reference_fp8", "fp8"

    def __init__(self, call: int) -> None:
        self.calls, self.call = 0, call

    def check(self, query, plan):
        pass

    def __call__(self, query, key, value, plan):
        self.calls += 1
        if self.calls == self.call:
            query = query.clone()
            query[0, 0, 0, 0] = torch.nan
        return backends.get("reference", precision="fp8")(query, key, value, plan)
