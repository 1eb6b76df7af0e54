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
# # Are the kinds of heads stable?
#
# A head is spatial or temporal by a choice that is made anew at every step and layer. If it hardly ever changed, it
# could be made once, or offline.

# %%
from analysis.figures import head_atlas
from analysis.head_stability import head_stability, layer_stability
from analysis.knobs import knob_effects
from analysis.notebook import newest, picture, records
from analysis.summary import summary

measurements, runs = records("results/ablation")

# %% [markdown]
# Shares of equal pairs of choices: of a step and the next one, of two prompts at one step, of two seeds (missing where
# there is one). `chance` is what heads would reach that draw anew each time with the layer's share of temporal ones: a
# layer whose heads are all of one kind is stable by chance alone, so the two are read side by side.

# %%
layer_stability(head_stability(measurements, runs)).query("setting.str.contains(' svg ')")

# %% [markdown]
# The same of a model that begins from an image, with text in its self-attention:

# %%
layer_stability(head_stability(*records("results/ablation_first_frames")))

# %% [markdown]
# And of one whose text stands behind the video, in HunyuanVideo's architecture:

# %%
measurements, runs = records("results/ablation_hunyuan_video")
layer_stability(head_stability(measurements, runs)).query("setting.str.contains(' svg ')")

# %% [markdown]
# ## What it costs to keep a choice
#
# `every` is the number of steps from one decision to the next. Sixteen captions, the embedded model:

# %%
measurements, runs = records("results/cached_choice")
summary(measurements, runs)[["label", "psnr_db", "psnr_db_ci_low", "psnr_db_ci_high", "ssim", "videos"]]

# %% [markdown]
# The difference from the first of these to the last, prompt by prompt, with its interval:

# %%
knob_effects(measurements, runs)

# %% [markdown]
# ## The atlas
#
# What the heads of one run chose, layers down and heads across, mean over steps, branches and videos: 1 is always
# temporal, 0 always spatial. The other panels are where their attention goes, in the calls that were sampled.

# %%
measurements, runs = records("results/ablation")
picture(head_atlas, measurements, newest(runs, "svg", 0.25))

# %%
measurements, runs = records("results/ablation_first_frames")
picture(head_atlas, measurements, newest(runs, "svg", 0.25))

# %%
measurements, runs = records("results/ablation_hunyuan_video")
picture(head_atlas, measurements, newest(runs, "svg", 0.25))

# %% [markdown]
# ## What these rows cannot say
#
# What one decision for all steps costs: `experiment=cached_choice` has it, too. Whether seeds change a choice:
# `python -m experiments.compare -m experiment=seeds`. Whether full-size models behave alike: the tables of choices take
# any run of theirs, and `python -m experiments.head_patterns` makes one.
