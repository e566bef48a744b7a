"""Hand-made settings of the other programs, as their users choose them; ``methods.py`` says what the keys mean.

``masks`` keeps a setting to images that have them.
"""

from __future__ import annotations

from typing import Any

LONG = [100, 70, 40]
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "ants_syn": {
        "mattes": {},
        "mattes-full": {"reg_iterations": LONG},
        "mattes-soft": {"reg_iterations": LONG, "flow_sigma": 2, "total_sigma": 0},
        "mattes-stiff": {"reg_iterations": LONG, "flow_sigma": 5, "total_sigma": 1},
        "cc2": {"syn_metric": "CC", "syn_sampling": 2, "reg_iterations": [100, 70, 20]},
        "cc4": {"syn_metric": "CC", "syn_sampling": 4, "reg_iterations": [100, 70, 10]},
        "cc4-soft": {"syn_metric": "CC", "syn_sampling": 4, "reg_iterations": [100, 70, 10], "flow_sigma": 2},
        "masked": {"masks": True, "syn_metric": "CC", "syn_sampling": 4, "reg_iterations": [100, 70, 10]},
    },
    "greedy": {
        "ncc2": {},
        "ncc4": {"metric": "NCC", "radius": 4},
        "ncc2-stiff": {"sigmas": "3vox 1vox"},
        "ncc4-stiff": {"radius": 4, "sigmas": "3vox 1vox"},
        "ncc4-long": {"radius": 4, "iterations": "200x100x50"},
        "nmi": {"metric": "NMI"},
        "nmi-stiff": {"metric": "NMI", "sigmas": "3vox 1vox"},
        "ssd": {"metric": "SSD", "sigmas": "2vox 0.7vox"},
        "masked": {"masks": True, "radius": 4},
    },
    "elastix": {
        "mi-10mm": {},
        "mi-8": {"grid": 8, "weights": [1, 0.01]},
        "mi-16": {"grid": 16, "weights": [1, 0.01]},
        "mi-6": {"grid": 6, "weights": [1, 0.01], "iterations": 500},
        "mi-32": {"grid": 32, "weights": [1, 0.01]},
        "ncc-8": {"metric": "AdvancedNormalizedCorrelation", "grid": 8, "weights": [1, 0.01], "iterations": 500},
        "ncc-16": {"metric": "AdvancedNormalizedCorrelation", "grid": 16, "weights": [1, 0.01]},
        "masked": {"masks": True, "metric": "AdvancedNormalizedCorrelation", "grid": 8, "weights": [1, 0.01], "iterations": 500},
    },
    "convexadam": {
        "usual": {},
        "grid4": {"grid_sp": 4, "disp_hw": 4},
        "grid4-far": {"grid_sp": 4, "disp_hw": 6},
        "grid3": {"grid_sp": 3, "disp_hw": 3},
        "grid4-stiff": {"grid_sp": 4, "disp_hw": 4, "lambda_weight": 2.5},
        "grid4-loose": {"grid_sp": 4, "disp_hw": 4, "lambda_weight": 0.5},
        "grid4-smooth": {"grid_sp": 4, "disp_hw": 4, "selected_smooth": 3},
    },
}

__all__ = ["SETTINGS"]
