"""What MDLM, SDTT and Duo share: their backbone as a denoiser, the student's training, sampling."""
