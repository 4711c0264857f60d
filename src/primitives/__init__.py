"""Pure functions of tensors and networks, of which methods are composed: scores, masks, schedules, codebooks, grids."""
