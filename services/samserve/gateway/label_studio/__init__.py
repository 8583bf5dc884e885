"""The ML backend of Label Studio, under /label-studio."""
