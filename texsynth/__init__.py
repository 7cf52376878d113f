"""Texture synthesis with Gram and spectrum constraints, many exemplars at once.

The public names of the package; the README has a first example.
"""

from texsynth.checkpoints import WeightsError
from texsynth.config import ConfigError, LBFGSConfig, SynthesisConfig
from texsynth.features import TapError, TextureNetwork
from texsynth.images import load_exemplar
from texsynth.objective import LossTerms, TextureObjective
from texsynth.quality import chroma_noise, displacement_score, layout_correlation
from texsynth.results import ReferenceLoss, SynthesisResult
from texsynth.scheduler import Progress, Synthesis
from texsynth.synthesis import prepare_synthesis, synthesize
from texsynth.synthesizer import TextureSynthesizer
from texsynth.tasks import CurvePoint, TaskCheckpoint
from texsynth.weights import load_network

__version__ = "0.1.0"

__all__ = [
    "ConfigError",
    "CurvePoint",
    "LBFGSConfig",
    "LossTerms",
    "Progress",
    "ReferenceLoss",
    "Synthesis",
    "SynthesisConfig",
    "SynthesisResult",
    "TapError",
    "TaskCheckpoint",
    "TextureNetwork",
    "TextureObjective",
    "TextureSynthesizer",
    "WeightsError",
    "__version__",
    "chroma_noise",
    "displacement_score",
    "layout_correlation",
    "load_exemplar",
    "load_network",
    "prepare_synthesis",
    "synthesize",
]
