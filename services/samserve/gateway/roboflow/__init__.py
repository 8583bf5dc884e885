"""The SAM routes of Roboflow's inference server, as its clients call them."""

from samserve.gateway.roboflow.routes import routes

__all__ = ["routes"]
