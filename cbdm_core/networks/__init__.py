"""Score networks by name; every constructor takes (shape, condition) and then keywords."""

from __future__ import annotations

from cbdm_core.registry import Registry

__all__ = ["NETWORKS"]

NETWORKS = Registry(
    "network",
    "cbdm.networks",
    {
        "dit": "cbdm_core.networks.dit:DiT",
        "mlp": "cbdm_core.networks.mlp:MLP",
        "unet": "cbdm_core.networks.unet:UNet",
        "published": "cbdm_core.networks.published:published_unet",
    },
)
