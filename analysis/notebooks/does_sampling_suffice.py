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
# The rows are those of the embedded model on sixteen captions, at a kept fraction of .25. Put another folder of records
# in their place, such as `runs`.

# %%
from analysis.figures import quality_over_sampled_rows
from analysis.head_patterns import head_table
from analysis.notebook import newest, picture, records
from analysis.paired import paired, paired_remarks

measurements, runs = records("results/sampled_rows")

# %% [markdown]
# ## How many rows?
#
# Regret is how much error the better pattern would have saved a head, on rows that the choice did not see; beside it
# how near the video is to its dense twin. Dotted is the choice from all queries, dash-dotted one by coin.

# %%
picture(quality_over_sampled_rows, measurements, runs)

# %% [markdown]
# The same, prompt by prompt: every number of rows less the choice from all queries, and less a coin for each head.
# Where the interval holds 0, these prompts do not tell the two apart; `detectable` is the least difference that they
# would have shown.

# %%
paired(measurements, runs).drop(columns=["model", "density", "videos", "unpaired"])

# %%
paired_remarks(paired(measurements, runs), "psnr_db")

# %% [markdown]
# ## At other densities, and on other models
#
# 64 rows beside all queries, over the densities of `results/ablation`: a positive difference means that the sample's
# video is the nearer one.

# %%
paired(*records("results/ablation")).query("other.str.startswith('oracle_choice')")

# %%
paired(*records("results/ablation"), quantity="ssim").query("other.str.startswith('oracle_choice')")

# %% [markdown]
# The model that begins from an image, and HunyuanVideo's architecture:

# %%
paired(*records("results/ablation_first_frames")).query("other.str.startswith('oracle_choice')")

# %%
paired(*records("results/ablation_hunyuan_video")).query("other.str.startswith('oracle_choice')")

# %% [markdown]
# ## Head by head
#
# `agreement` is how often a head takes the pattern that is best on other sampled rows, `regret` how much error the
# better pattern would have saved it. Both are of every sparse call of one prompt with four seeds (`results/atlas`).

# %%
measurements, runs = records("results/atlas")
head_table(measurements, runs, newest(runs, "svg", 0.25, "tiny_wan")).dropna(subset=["agreement"])

# %%
head_table(measurements, runs, newest(runs, "svg", 0.25, "tiny_cogvideox_i2v")).dropna(subset=["agreement"])

# %%
head_table(measurements, runs, newest(runs, "svg", 0.25, "tiny_hunyuan_video")).dropna(subset=["agreement"])

# %% [markdown]
# ## What these rows cannot say
#
# Whether full-size models need more rows: their sequences are eight to thirty times as long. `python -m
# experiments.compare -m experiment=sampled_rows` runs on any of them, and `python -m experiments.replay` scores numbers
# of rows on captured calls without generating.
