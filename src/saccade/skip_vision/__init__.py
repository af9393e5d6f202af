"""Skip-Vision: models trained with skipping on (arXiv 2503.21817), on stock parts.

``wrap`` lays the visual rows of a stock model out as retained, skipped and summary rows, and puts the method
on its decoder; ``save`` and ``load`` keep such a model as a folder.
"""

from saccade.skip_vision.config import ROWS, SkipVisionConfig, ablation_row
from saccade.skip_vision.folder import base_of, folder_of, identity, is_skip_vision, read_config, save
from saccade.skip_vision.placed import set_cache, unwrap_skip_vision, wrapped
from saccade.skip_vision.reading import load, open_as
from saccade.skip_vision.wrap import wrap

__all__ = [
    "ROWS",
    "SkipVisionConfig",
    "ablation_row",
    "base_of",
    "folder_of",
    "identity",
    "is_skip_vision",
    "load",
    "open_as",
    "read_config",
    "save",
    "set_cache",
    "unwrap_skip_vision",
    "wrap",
    "wrapped",
]
