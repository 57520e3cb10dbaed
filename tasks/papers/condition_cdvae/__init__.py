"""ConditionCDVAE+ (Gao et al., Sci. Rep. 2025) made again."""
