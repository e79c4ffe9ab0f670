"""Entering the programs of others: MDLM, SDTT, Duo, MaskGIT, Halton-MaskGIT, tauLDR."""
