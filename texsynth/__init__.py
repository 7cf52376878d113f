"""Texture synthesis with Gram and spectrum constraints, many exemplars at once.

The public names of the package; see the README for a first example.
"""

from texsynth.config import ConfigError, LBFGSConfig, SynthesisConfig
from texsynth.features import TapError, TextureNetwork
from texsynth.objective import LossTerms, TextureObjective
from texsynth.weights import WeightsError, load_network

__version__ = "0.1.0"

__all__ = [
    "ConfigError",
    "LBFGSConfig",
    "LossTerms",
    "SynthesisConfig",
    "TapError",
    "TextureNetwork",
    "TextureObjective",
    "WeightsError",
    "__version__",
    "load_network",
]
