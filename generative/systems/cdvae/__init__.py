"""The CDVAE family: CDVAE, DP-CDVAE and their variants, and the regressors that judge them."""
