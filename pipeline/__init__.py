"""The batch job: a manifest of textures in, a Parquet data set of new textures out."""
