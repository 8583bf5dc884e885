"""The edge: Envoy in front of everything public, configured from the settings of one class.

`python -m samserve.edge` writes the configuration and becomes Envoy. Nothing else makes one:
`samserve up`, compose, the chart and the tests start this program with its settings.
"""
