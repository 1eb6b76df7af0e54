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
# # Does sampling suffice?
#
# Sparse VideoGen decides each head's pattern on a few sampled queries. Would all queries have decided otherwise, and
# would the video be nearer to the dense one?
#
# The rows are those of `results/ablation`: the embedded model, sixteen captions, 64 sampled rows. Put another folder
# of records in their place, such as `runs`.

# %%
from analysis.head_patterns import head_table
from analysis.notebook import newest, records
from analysis.paired import paired, paired_remarks

measurements, runs = records("results/ablation")

# %% [markdown]
# `oracle_choice` makes the same choice from all queries. A positive difference means that the sample's video is the
# nearer one. Where the interval holds 0, these prompts do not tell the two apart; `detectable` is the least difference
# that they would have shown.

# %%
paired(measurements, runs)

# %%
paired(measurements, runs, quantity="ssim")

# %%
paired_remarks(paired(measurements, runs), "psnr_db")

# %% [markdown]
# The same question on HunyuanVideo's architecture, where the noise floor was measured, too:

# %%
measurements, runs = records("results/ablation_hunyuan_video")
paired(measurements, runs)

# %%
paired_remarks(paired(measurements, runs), "psnr_db")

# %% [markdown]
# ## Head by head
#
# `agreement` is how often a head takes the pattern that is best on other sampled rows, `regret` how much error the
# better pattern would have saved it. Both are taken in a sample of layers and steps. First the model of the last table,
# then the one that begins from an image; the rows of `results/ablation` were made before these were measured.

# %%
head_table(measurements, runs, newest(runs, "svg", 0.25)).dropna(subset=["agreement"])

# %%
measurements, runs = records("results/ablation_first_frames")
head_table(measurements, runs, newest(runs, "svg", 0.25)).dropna(subset=["agreement"])

# %% [markdown]
# ## What these rows cannot say
#
# How many rows are enough: here all runs have 64. `python -m experiments.compare -m experiment=sampled_rows
# prompts=ablation` runs 1 to 1024 of them, and `experiment=assignment` the oracle beside a choice by coin; then
# `analysis.knobs` ranks the number of rows among the other knobs.
