"""The six members of the CDVAE family by name; what differs between them is their settings."""

from __future__ import annotations

from generative.systems.cdvae.config import (
    CDVAEFourierConfig,
    DPCDVAEConfig,
    DPCDVAEGineConfig,
    DPCDVAENaConfig,
    DPCDVAENaGineConfig,
)
from generative.systems.cdvae.system import CDVAE


class CDVAEFourier(CDVAE):
    """CDVAE with Fourier features in the denoiser."""

    name, config_type = "cdvae-fourier", CDVAEFourierConfig


class DPCDVAE(CDVAE):
    """DP-CDVAE."""

    name, config_type = "dp-cdvae", DPCDVAEConfig


class DPCDVAENa(CDVAE):
    """DP-CDVAE, number of atoms encoded."""

    name, config_type = "dp-cdvae-na", DPCDVAENaConfig


class DPCDVAEGine(CDVAE):
    """DP-CDVAE, GINE beside DimeNet++."""

    name, config_type = "dp-cdvae-gine", DPCDVAEGineConfig


class DPCDVAENaGine(CDVAE):
    """DP-CDVAE with both."""

    name, config_type = "dp-cdvae-na-gine", DPCDVAENaGineConfig


FAMILY: tuple[type[CDVAE], ...] = (CDVAE, CDVAEFourier, DPCDVAE, DPCDVAENa, DPCDVAEGine, DPCDVAENaGine)
