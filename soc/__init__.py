"""A whole FPGA around a machine, for boards without a processor: memory on the chip, a serial line to the host."""
