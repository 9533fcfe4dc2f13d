"""The one warp: any 3×3 matrix and any 3×4 colour matrix per image, one interpolation."""
