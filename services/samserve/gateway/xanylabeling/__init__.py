"""The protocol of X-AnyLabeling's server, which its window calls when the model is remote."""
