# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Which knob matters most?
#
# Four knobs decide how near a sparse video is to its dense twin: how much is kept (`sparsity`), how many queries
# decide (`num_sampled_rows`), and which steps and layers stay dense (`first_times_fp`, `first_layers_fp`).

# %%
from analysis.figures import quality_over_density
from analysis.knobs import knob_effects
from analysis.notebook import picture, records
from analysis.summary import summary

measurements, runs = records("results/ablation")

# %% [markdown]
# `knob_effects` takes every two settings that differ in one knob alone, and says what the quality gains from its least
# value to its greatest, prompt by prompt. The knob on top moves the videos most, over the range that was run.

# %%
knob_effects(measurements, runs)

# %%
knob_effects(measurements, runs, quantity="ssim")

# %% [markdown]
# Over the kept fraction, beside the methods that were run at one of its values:

# %%
picture(quality_over_density, measurements, runs)

# %%
summary(measurements, runs)[
    ["label", "density_executed", "psnr_db", "psnr_db_ci_low", "psnr_db_ci_high", "ssim", "videos"]
]

# %% [markdown]
# ## What these rows cannot say
#
# Only the kept fraction varies in them. `python -m experiments.compare -m experiment=grid prompts=ablation` varies all
# four together, and `experiment=sparsity`, `sampled_rows`, `first_times_fp` and `first_layers_fp` one at a time over a
# longer range; `dry_run=true` says how long each takes. In one folder, `knob_effects` ranks them all.
