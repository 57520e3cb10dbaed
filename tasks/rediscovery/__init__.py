"""The benchmark of rediscovery: stable crystals are hidden, and proposers look for them."""
