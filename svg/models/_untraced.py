"""What torch.compile passes by: an attention processor decides anew at every step, and what it calls counts."""

from __future__ import annotations

import torch

# A decorator; the reason is what people read who ask for one graph.
untraced = torch.compiler.disable(
    reason="svg.attach decides attention anew at every step, outside of the graph: compile with fullgraph=False"
)
