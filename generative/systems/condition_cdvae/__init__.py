"""ConditionCDVAE+: CDVAE with EquiformerV2 at both ends, a condition fused into the latent vector, and a GAN for it."""
