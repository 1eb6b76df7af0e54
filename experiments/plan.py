"""Say what a configuration will do before it does it: ``python -m experiments.plan [SETTING=VALUE ...]``."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from functools import partial
from typing import Any

import torch

from experiments import plan_record
from experiments.entry import command
from experiments.forecasting import forecast
from experiments.schema import PlanConfig

# What each quantity of the table is, and how it is written.
ROWS = {
    "seq_len": (
        "tokens of a self-attention call",
        "{seq_len}: {latent_frames} x {tokens_per_frame} + {num_text_tokens} text",
    ),
    "window_tokens": ("half-width of a spatial head's band", "{window_tokens} tokens, {window_frames:.3f} frames"),
    "density_requested": ("fraction of pairs asked for", "{density_requested:.4f}"),
    "density_token": ("kept in a sparse call", "{density_token:.4f} of the pairs"),
    "density_block": (
        "computed in a sparse call",
        "{density_block:.4f} of the tiles of {block_size}, {density_tile:.4f} of the pairs",
    ),
    "density_overall": ("computed, dense steps and layers included", "{density_overall:.4f} of the pairs"),
    "dense_steps": ("steps that stay dense", "{dense_steps} of {num_steps}"),
    "dense_layers": ("layers that stay dense", "{dense_layers} of {num_layers}"),
    "pflops_dense": ("operations, dense", "{pflops_dense:.4g} PFLOP, {attention_share:.1%} in self-attention"),
    "pflops_sparse": ("operations, sparse", "{pflops_sparse:.4g} PFLOP"),
    "floor_dense_s": ("least time, dense", "{floor_dense_s:.4g} s at the peak of {peak_tflops:g} TFLOP/s"),
    "fp8_tflops": ("of it in FP8", "the layers of all video tokens, at the peak of {fp8_tflops:g} TFLOP/s"),
    "floor_s": ("least time, sparse", "{floor_s:.4g} s"),
    "reachable_dense_s": ("reachable, dense", "{reachable_dense_s:.4g} s"),
    "reachable_s": ("reachable, sparse", "{reachable_s:.4g} s"),
    "speedup_limit": ("speed-up without any self-attention", "{speedup_limit:.2f}x"),
    "video_weights_gib": ("weights of the layers of all video tokens", "{video_weights_gib:.2f} GiB"),
    "plan_mib": ("memory of the plan", "{plan_mib:.1f} MiB"),
}


@partial(command, settings=PlanConfig, config_name="plan")
def main(config: PlanConfig, names: Any) -> None:
    torch.set_num_threads(config.threads or 1)
    found = forecast(config, names)
    print(json.dumps(found) if config.format == "json" else table(found), flush=True)
    if config.record:
        # What it says of a record that is there already must not follow the object.
        with redirect_stdout(sys.stderr):
            plan_record.write(config, names, found)


def table(found: dict[str, Any]) -> str:
    """Return a forecast for people: a line for each quantity that is known."""
    size = "model={model} method={method}, {height} x {width}, {num_frames} frames".format(**found)
    lines = [size, f"denoising only, on {found['gpu']}", ""]
    for name, (words, value) in ROWS.items():
        if found[name] is not None and not (name == "density_block" and found["block_size"] is None):
            lines.append(f"{words:<44}{value.format(**found)}")
    lines += ["", f"rates: {found['rates']}"]
    return "\n".join(lines + ([found["reason"]] if "reason" in found else []))


if __name__ == "__main__":
    main()
