"""The benchmark of judges: how far a potential's distance above the hull can be trusted."""
