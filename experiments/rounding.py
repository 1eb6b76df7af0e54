"""How far a backend's output is from the same attention in float64, head by head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.rows import branch_of
from svg import backends
from svg.plan import AttentionInputs, AttentionPlan
from svg.results import Measurement


def rounding_rows(
    backend: Any,
    inputs: AttentionInputs,
    plan: AttentionPlan,
    heads: Sequence[int],
    item_branches: tuple[str, ...],
    place: Mapping[str, Any],
) -> Iterator[Measurement]:
    """Yield each head's relative error: the L2 norm of the difference over that of the exact output.

    Args:
        backend: What computes the plan; it is judged against the reference on the same inputs in float64.
        inputs: Of one call.
        plan: For it.
        heads: What the call's heads are called in the model.
        item_branches: As of the call.
        place: Step, layer, branch and whatever else stands in every row.

    Raises:
        ValueError: If the backend refuses the plan.
    """
    tensors = plan.arrange(inputs.query(), inputs.key(), inputs.value())
    backend.check(tensors[0], plan)
    output = backend(*tensors, plan).double()
    exact = backends.get("reference")(*(x.double() for x in tensors), plan)
    errors = ((output - exact).norm(dim=(2, 3)) / exact.norm(dim=(2, 3))).tolist()
    for item, of_heads in enumerate(errors):
        branch = branch_of(place["branch"], item_branches, item, len(errors))
        for head, value in zip(heads, of_heads, strict=True):
            yield Measurement(
                quantity="head_rounding_error",
                unit="1",
                value=value,
                head=head,
                higher_is_better=False,
                **{**place, "branch": branch},
            )
