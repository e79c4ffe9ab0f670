"""Stand-in for `torch_fidelity.feature_extractor_inceptionv3`."""

from di4c_plugin.programs.shims.refuse import refused_class

FeatureExtractorInceptionV3 = refused_class(
    "torch_fidelity", "the evaluation by Inception features", "torch-fidelity"
)
