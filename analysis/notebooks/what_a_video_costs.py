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
# # What does a video cost?
#
# Seconds of one GPU, and its memory, dense and sparse.

# %%
from analysis.notebook import records
from analysis.step_factors import video_costs
from analysis.summary import summary

# %% [markdown]
# ## Full-size models
#
# All denoising steps at the settings of each model's file, composed of one dense and one sparse step that were timed
# (`results/h200`): the steps that stay dense cost a dense step, the others a sparse one. Text encoding and decoding
# are left out, so `speedup` is that of denoising alone. It is smaller than a single step's, by the dense steps.

# %%
video_costs(*records("results/h200")).round(2)

# %% [markdown]
# On an H100, every model save HunyuanVideo at 480p with its blocks as they are; five with compiled blocks, too, and
# HunyuanVideo with queries and keys in FP8 besides, once with its linear layers in FP8 as well. `backend` says which
# row is which:

# %%
video_costs(*records("results/h100")).round(2)

# %% [markdown]
# ## The embedded model, measured
#
# A whole generation of the demo, decoding included, on a machine without a GPU. One video: it shows what is measured.

# %%
summary(*records("results/demo"))[
    ["label", "dense_generation_s", "generation_s", "speedup", "denoise_speedup", "peak_memory_gib"]
]

# %% [markdown]
# ## What these rows cannot say
#
# A whole video of a full-size model, step by step: `make bench-videos` on a GPU measures some, beside the composed
# time. On another GPU: `python -m experiments.plan model=wan_t2v_14b gpu=l40s` gives the least time from its data
# sheet, and `python -m experiments.step_latency model=wan_t2v_14b` a measured step.
