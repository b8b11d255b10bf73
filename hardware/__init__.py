"""What a machine is and what work costs on it.

Accelerators and boards are described here (YAML at the edge, frozen objects inside), and so is the
*schedule*: how one layer runs on one accelerator. The lowering encodes that schedule for the RTL, the
cycle model times it; there is no second description of the dataflow. This room knows no torch, no
Amaranth and no cocotb.
"""
