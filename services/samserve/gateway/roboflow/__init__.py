"""The SAM routes of Roboflow's inference server, as its clients call them."""
