"""The networks of MaskGIT, Halton-MaskGIT and tauLDR as teachers and students of ours."""
