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
from analysis.figures import quality_of_dense_part, quality_over_density
from analysis.knobs import knob_effects
from analysis.notebook import picture, records
from analysis.summary import summary

measurements, runs = records("results/ablation", "results/sampled_rows", "results/dense_part")

# %% [markdown]
# `knob_effects` takes every two settings that differ in one knob alone, and says what the quality gains from its least
# value to its greatest, prompt by prompt. The knob on top moves the videos most, over the range that was run.

# %%
knob_effects(measurements, runs)

# %%
knob_effects(measurements, runs, quantity="ssim")

# %% [markdown]
# ## One knob, or two, at a time
#
# The kept fraction, beside other choices of as many tiles:

# %%
measurements, runs = records("results/ablation")
picture(quality_over_density, measurements, runs)

# %% [markdown]
# The first steps and layers, a cell for each pair of shares that stay dense:

# %%
picture(quality_of_dense_part, *records("results/dense_part"))

# %%
summary(measurements, runs)[
    ["label", "density_executed", "psnr_db", "psnr_db_ci_low", "psnr_db_ci_high", "ssim", "videos"]
]

# %% [markdown]
# ## What these rows cannot say
#
# Whether the knobs add up: the map crosses two of them, at one kept fraction and one number of rows. `python -m
# experiments.compare -m experiment=grid prompts=ablation` varies all four together; `dry_run=true` says how long that
# takes. And the ranges differ in cost: a share of dense steps is paid in time, a number of rows hardly.
