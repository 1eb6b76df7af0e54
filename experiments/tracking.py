"""Copies a finished record to Weights & Biases; nothing is read back from there."""

from __future__ import annotations

from pathlib import Path

from experiments.schema import TrackingConfig


def publish(tracking: TrackingConfig, path: Path) -> None:
    """Send the record in the folder ``path``; does nothing where tracking is off."""
    if tracking.mode == "off":
        return
