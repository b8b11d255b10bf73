"""Running the machine: Verilator tool chain, cocotb bench, memory model, integer reference."""
