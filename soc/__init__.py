"""All that an FPGA needs around the machine: memory, serial line and clock, or the way to a processor beside it."""
