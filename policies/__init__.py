"""Deciding the bits: policy files, quantizers, the environment and the agents.

An agent sees a Gymnasium environment and a cost table, never the RTL.
"""
