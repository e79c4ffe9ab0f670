"""Shared by MDLM, SDTT and Duo: the backbone as a denoiser, a student's training, sampling."""
