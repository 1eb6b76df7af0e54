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
# # How much is kernel, and how much is sparsity?
#
# A sparse step is faster because it computes fewer tiles. It is slower again by what the sparse kernel loses on each
# tile, and by what deciding and reordering take. And a kernel that is better than the one that dense attention is
# timed with looks like sparsity where it is none.
#
# The rows are single denoising steps of full-size models with random weights (`results/h200`); both sides of each ran
# in turns in one process, dense attention on the backend that the table names.

# %%
from analysis.figures import speedup_over_density, step_parts
from analysis.notebook import picture, records
from analysis.step_factors import step_factors
from analysis.steps import step_table

measurements, runs = records("results/h200")

# %% [markdown]
# `speedup` is the product of the four factors behind it: fewer tiles at the dense kernel's rate, the sparse kernel's
# own rate, deciding and reordering, and the rest of the step, in which both sides do the same, so that its distance
# from 1 is the measurement's noise. `attention_share` is attention's part of the dense step, and bounds `from_tiles`.

# %%
step_factors(measurements, runs).round(3)

# %% [markdown]
# Where the seconds of each step go, dense above sparse:

# %%
picture(step_parts, measurements, runs)

# %% [markdown]
# A smaller model at several densities (`results/speedup`), over four dense backends: its speed-ups beside what the
# density alone would give.

# %%
picture(speedup_over_density, *records("results/speedup"))

# %% [markdown]
# The steps that these factors are of, with how often each was repeated:

# %%
step_table(measurements, runs).drop(columns=["run_id", "status", "error"])

# %% [markdown]
# ## What these rows cannot say
#
# Norm and rotary embedding are one kernel in the dense steps as in the sparse ones, so what that kernel is worth is in
# no factor. `make bench-kernels` times it, and every other, beside eager and compiled torch. Against another dense
# kernel, `from_kernel` is another number: `experiments.step_latency` with `-m dense_backend=flash2,sdpa,flash4` says
# which.
