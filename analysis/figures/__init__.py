"""Figures for papers and the README, drawn from measurement rows alone: a function for each question."""

from analysis.figures.atlas import ATLAS, head_atlas
from analysis.figures.dense_part import quality_of_dense_part
from analysis.figures.front import quality_over_time
from analysis.figures.look import save
from analysis.figures.precision import precision_over_density
from analysis.figures.quality import quality_over_density
from analysis.figures.sampled_rows import quality_over_sampled_rows
from analysis.figures.series import MissingRows
from analysis.figures.speed import speedup_over_density
from analysis.figures.step_parts import step_parts
from analysis.figures.strips import video_strips

__all__ = [
    "ATLAS",
    "MissingRows",
    "head_atlas",
    "precision_over_density",
    "quality_of_dense_part",
    "quality_over_density",
    "quality_over_sampled_rows",
    "quality_over_time",
    "save",
    "speedup_over_density",
    "step_parts",
    "video_strips",
]
