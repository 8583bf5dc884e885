"""The protocol of X-AnyLabeling's server, which its window calls when the model is remote."""

from samserve.gateway.xanylabeling.routes import routes

__all__ = ["routes"]
