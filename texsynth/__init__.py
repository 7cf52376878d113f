"""Texture synthesis with Gram and spectrum constraints, many exemplars at once.

The public names of the package; the README has a first example.
"""

from texsynth.artefacts import (
    border_contrast,
    clipped_share,
    local_contrast_drift,
    local_mean_drift,
    out_of_range_share,
    seam_score,
)
from texsynth.checkpoints import WeightsError
from texsynth.colour import colour_covariance_distance, colour_mean_distance, sliced_wasserstein
from texsynth.config import ConfigError, LBFGSConfig, SynthesisConfig
from texsynth.copies import (
    layout_correlation,
    luminance_layout,
    phase_correlation_peak,
    sibling_distance,
    verbatim_share,
)
from texsynth.displacement import displacement_score
from texsynth.features import TapError, TextureNetwork
from texsynth.fit import choose_held_out_tap, gram_errors, measure_fit
from texsynth.images import load_exemplar
from texsynth.objective import LossTerms, TextureObjective
from texsynth.pairs import PairError
from texsynth.perceptual import PerceptualError, perceptual_distance
from texsynth.quality import QualityMeasures, measure_quality, score
from texsynth.results import ReferenceLoss, SynthesisResult
from texsynth.scheduler import Progress, Synthesis
from texsynth.spectral import (
    autocorrelation_error,
    chroma_noise,
    colour_spectrum_error,
    high_frequency_ratio,
    spectrum_error,
)
from texsynth.synthesis import prepare_synthesis, synthesize
from texsynth.synthesizer import TextureSynthesizer
from texsynth.tasks import CurvePoint, TaskCheckpoint
from texsynth.triage import ExemplarTriage, receptive_field_px, triage_exemplars
from texsynth.wavelet import wavelet_kl
from texsynth.weights import load_network

__version__ = "0.1.0"

__all__ = [
    "ConfigError",
    "CurvePoint",
    "ExemplarTriage",
    "LBFGSConfig",
    "LossTerms",
    "PairError",
    "PerceptualError",
    "Progress",
    "QualityMeasures",
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
    "autocorrelation_error",
    "border_contrast",
    "choose_held_out_tap",
    "chroma_noise",
    "clipped_share",
    "colour_covariance_distance",
    "colour_mean_distance",
    "colour_spectrum_error",
    "displacement_score",
    "gram_errors",
    "high_frequency_ratio",
    "layout_correlation",
    "load_exemplar",
    "load_network",
    "local_contrast_drift",
    "local_mean_drift",
    "luminance_layout",
    "measure_fit",
    "measure_quality",
    "out_of_range_share",
    "perceptual_distance",
    "phase_correlation_peak",
    "prepare_synthesis",
    "receptive_field_px",
    "score",
    "seam_score",
    "sibling_distance",
    "sliced_wasserstein",
    "spectrum_error",
    "synthesize",
    "triage_exemplars",
    "verbatim_share",
    "wavelet_kl",
]
