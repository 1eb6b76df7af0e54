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

# %% [markdown]
# Shares of equal pairs of choices: of a step and the next one, of two prompts at one step, of two seeds. `chance` is
# what heads would reach that draw anew each time with the layer's share of temporal ones: a layer whose heads are all
# of one kind is stable by chance alone, so the two are read side by side.
#
# Sixteen prompts with one seed, at five kept fractions:

# %%
measurements, runs = records("results/ablation")
layer_stability(head_stability(measurements, runs)).query("setting.str.contains(' svg ')")

# %% [markdown]
# The same of a model that begins from an image, with text in its self-attention:

# %%
measurements, runs = records("results/ablation_first_frames")
layer_stability(head_stability(measurements, runs)).query("setting.str.contains(' svg ')")

# %% [markdown]
# And of one whose text stands behind the video, in HunyuanVideo's architecture:

# %%
measurements, runs = records("results/ablation_hunyuan_video")
layer_stability(head_stability(measurements, runs)).query("setting.str.contains(' svg ')")

# %% [markdown]
# One prompt with four seeds, of all three models:

# %%
layer_stability(head_stability(*records("results/atlas")))

# %% [markdown]
# ## What it costs to keep a choice
#
# `every` is the number of steps from one decision to the next; 1000 decides once.

# %%
measurements, runs = records("results/cached_choice")
summary(measurements, runs)[["label", "psnr_db", "psnr_db_ci_low", "psnr_db_ci_high", "ssim", "videos"]]

# %% [markdown]
# What changes from deciding at every step to deciding once, prompt by prompt, with its interval; `dense` is the noise
# floor's two kernels:

# %%
knob_effects(measurements, runs)

# %% [markdown]
# ## The atlas
#
# What the heads of one run chose, layers down and heads across, mean over steps, branches and videos: 1 is always
# temporal, 0 always spatial. The other panels are where their attention goes, in every call.

# %%
measurements, runs = records("results/atlas")
picture(head_atlas, measurements, newest(runs, "svg", 0.25, "tiny_wan"))

# %% [markdown]
# Over the steps:

# %%
picture(head_atlas, measurements, newest(runs, "svg", 0.25, "tiny_wan"), across="step")

# %% [markdown]
# The model that begins from an image:

# %%
picture(head_atlas, measurements, newest(runs, "svg", 0.25, "tiny_cogvideox_i2v"))

# %% [markdown]
# HunyuanVideo's architecture:

# %%
picture(head_atlas, measurements, newest(runs, "svg", 0.25, "tiny_hunyuan_video"))

# %% [markdown]
# ## What these rows cannot say
#
# Whether full-size models behave alike: all tables take any run of theirs, and `python -m experiments.head_patterns`
# makes one.
