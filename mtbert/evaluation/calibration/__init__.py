"""Calibration of a checkpoint's tasks on held-out rows: `calibrate_task` fits, and scores by cross-fitting."""

from .cross_fitting import calibrate_task
from .fitting import Goals, fit

__all__ = ["Goals", "calibrate_task", "fit"]
